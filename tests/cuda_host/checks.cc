#include "checks.h"

#include <cmath>
#include <cstdio>
#include <cstring>

#include "device_features.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::cuda {
namespace {

using planted::Bug;

int g_failures = 0;

uint32_t next_random(uint32_t& state) {
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

float random_float(uint32_t& state) {
  return static_cast<float>(static_cast<int32_t>(next_random(state) % 2001) - 1000) * 1e-3f;
}

}  // namespace

void report(const char* name, bool ok, const std::string& why) {
  std::printf(ok ? "ok %s\n" : "FAIL %s: %s\n", name, why.c_str());
  if (!ok) ++g_failures;
}

int failures() {
  return g_failures;
}

namespace {

// ---- features ----

void check_votes() {
  const Buffer<int32_t> out(64 * features::kVotes);
  const Status s = features::votes(out.get(), 64, nullptr);
  report("votes run", s == Status::kOk, last_error());
  const std::vector<int32_t> all = out.values();
  bool good = true;
  for (int32_t t = 0; t < 64; ++t) {
    const int32_t lane = t % 32;
    const int32_t* o = all.data() + t * features::kVotes;
    good &= static_cast<uint32_t>(o[0]) == 0xaaaaaaaau && o[1] == 1 && o[2] == 0;
    good &= o[3] == (lane < 3 ? t : t - 3) && o[4] == (lane % 8 < 3 ? t + 5 : t);
    good &= o[5] == t / 16 * 16 + 2 && o[6] == t / 32 * 32 + (lane ^ 9);
    good &= o[7] == (lane < 16 ? lane ^ 2 : -(lane ^ 4));
    good &= o[8] == 40 && o[9] == 1 && o[10] == 0 && o[11] == t / 32 * 32 + 4;
  }
  report("votes, shuffles, counting barriers", good, "a value is wrong");
}

void check_atomics() {
  const Buffer<features::Atomics> out(std::vector<features::Atomics>(1, features::Atomics{}));
  report("atomics run", features::atomics(out.get(), 5, 96, nullptr) == Status::kOk, last_error());
  const features::Atomics a = out.values()[0];
  report("atomics", a.largest == 100 && a.count == 480 && a.first > 0 && a.bits == 0xffffffffu,
         "a value is wrong");
}

void check_arithmetic() {
  const Buffer<float> out(64);
  (void)features::halves(out.get(), nullptr);
  const std::vector<float> v = out.values();
  report("half arithmetic", v[0] == 3.75f && v[1] == 2.0f && v[2] == 3.140625f, "a value is wrong");
  const Buffer<int32_t> whole(3);
  (void)features::integer_dots(whole.get(), nullptr);
  const std::vector<int32_t> w = whole.values();
  report("dp4a and byte_perm", w[0] == 3 && w[1] == 0x77441100 && w[2] == -1, "a value is wrong");
}

// Lane maps, from NVIDIA's CuTe layouts of these instructions (cute/atom/mma_traits_sm80.hpp): element v of
// lane l lies at the offset that shapes and strides say, column-major with M or N first.
struct Layout {
  std::vector<int> shape;
  std::vector<int> stride;
  int offset(int i) const {
    int sum = 0;
    for (size_t d = 0; d < shape.size(); ++d) {
      sum += i % shape[d] * stride[d];
      i /= shape[d];
    }
    return sum;
  }
};
struct MmaCase {
  const char* name;
  features::Mma kind;
  int depth;
  int per_word;  // elements in a 32-bit register
  Layout a_lane, a_value, b_lane, b_value;
};

bool is_s8(features::Mma kind) {
  return kind == features::Mma::kS8 || kind == features::Mma::kS8K16;
}

uint32_t encode(features::Mma kind, int value) {
  if (is_s8(kind)) return static_cast<uint8_t>(value);
  const auto f = static_cast<float>(value);
  if (kind == features::Mma::kF16) return f16_from_f32(f);
  if (kind == features::Mma::kBf16) return bf16_from_f32(f);
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof(bits));
  return bits;
}

void check_mma(const MmaCase& c) {
  uint32_t seed = 7;
  std::vector<int> a(static_cast<size_t>(16 * c.depth));  // column-major
  std::vector<int> b(static_cast<size_t>(8 * c.depth));
  for (int& x : a) x = static_cast<int>(next_random(seed) % 15) - 7;
  for (int& x : b) x = static_cast<int>(next_random(seed) % 15) - 7;
  const auto pack = [&](const std::vector<int>& m, const Layout& lane_map, const Layout& value_map,
                        int words) {
    std::vector<uint32_t> out(static_cast<size_t>(32 * words), 0);
    const int bits = 32 / c.per_word;
    for (int lane = 0; lane < 32; ++lane) {
      for (int v = 0; v < static_cast<int>(m.size()) / 32; ++v) {
        const int at = lane_map.offset(lane) + value_map.offset(v);
        out[static_cast<size_t>(lane * words + v / c.per_word)] |= encode(c.kind, m[static_cast<size_t>(at)])
                                                                   << (v % c.per_word * bits);
      }
    }
    return out;
  };
  const Buffer<uint32_t> da(pack(a, c.a_lane, c.a_value, 4));
  const Buffer<uint32_t> db(pack(b, c.b_lane, c.b_value, 2));
  const Buffer<uint32_t> dd(std::vector<uint32_t>(128, 0));
  const Status s = features::mma(c.kind, da.get(), db.get(), dd.get(), nullptr);
  report(c.name, s == Status::kOk, last_error());
  const std::vector<uint32_t> d = dd.values();
  const Layout c_lane{{4, 8}, {32, 1}};
  const Layout c_value{{2, 2}, {16, 8}};
  bool good = true;
  for (int lane = 0; lane < 32; ++lane) {
    for (int v = 0; v < 4; ++v) {
      const int at = c_lane.offset(lane) + c_value.offset(v);
      int want = 0;
      for (int k = 0; k < c.depth; ++k) {
        want += a[static_cast<size_t>(at % 16 + 16 * k)] * b[static_cast<size_t>(at / 16 + 8 * k)];
      }
      const uint32_t word = d[static_cast<size_t>(lane * 4 + v)];
      const int got = is_s8(c.kind) ? static_cast<int>(word) : static_cast<int>(f32_from_bits(word));
      good &= got == want;
    }
  }
  report("lane maps are NVIDIA's", good, c.name);
}

}  // namespace

void check_tensor_cores(bool bf16) {
  const MmaCase cases[] = {
      {"mma f16",
       features::Mma::kF16,
       16,
       2,
       {{4, 8}, {32, 1}},
       {{2, 2, 2}, {16, 8, 128}},
       {{4, 8}, {16, 1}},
       {{2, 2}, {8, 64}}},
      {"mma bf16",
       features::Mma::kBf16,
       16,
       2,
       {{4, 8}, {32, 1}},
       {{2, 2, 2}, {16, 8, 128}},
       {{4, 8}, {16, 1}},
       {{2, 2}, {8, 64}}},
      {"mma tf32",
       features::Mma::kTf32,
       8,
       1,
       {{4, 8}, {16, 1}},
       {{2, 2}, {8, 64}},
       {{4, 8}, {8, 1}},
       {{2}, {32}}},
      {"mma s8",
       features::Mma::kS8,
       32,
       4,
       {{4, 8}, {64, 1}},
       {{4, 2, 2}, {16, 8, 256}},
       {{4, 8}, {32, 1}},
       {{4, 2}, {8, 128}}},
      {"mma s8, half as deep",
       features::Mma::kS8K16,
       16,
       4,
       {{4, 8}, {64, 1}},
       {{4, 2}, {16, 8}},
       {{4, 8}, {32, 1}},
       {{4}, {8}}},
  };
  for (const MmaCase& c : cases) {
    const bool newer = c.kind == features::Mma::kBf16 || c.kind == features::Mma::kTf32;
    if (bf16 || !newer) check_mma(c);
  }
  std::vector<uint16_t> in(256);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i);
  const Buffer<uint16_t> source(in);
  const Buffer<uint32_t> out(128);
  for (const bool transposed : {false, true}) {
    (void)features::matrices(source.get(), out.get(), transposed, nullptr);
    const std::vector<uint32_t> words = out.values();
    bool good = true;
    for (uint32_t lane = 0; lane < 32; ++lane) {
      for (uint32_t m = 0; m < 4; ++m) {
        const uint32_t row = lane / 4;
        const uint32_t column = lane % 4 * 2;
        const uint32_t low = transposed ? m * 64 + column * 8 + row : m * 64 + row * 8 + column;
        const uint32_t high = low + (transposed ? 8 : 1);
        good &= words[lane * 4 + m] == (low | high << 16);
      }
    }
    report(transposed ? "ldmatrix, transposed" : "ldmatrix", good, "a value is wrong");
  }
}

namespace {

void check_seam() {
  const char* reason = nullptr;
  const int32_t devices = device_count(&reason);
  report("a device", devices >= 1, reason);
  DeviceProperties p;
  report("device properties", device_properties(0, &p) == Status::kOk, last_error());
  void* stream = nullptr;
  void* graph = nullptr;
  (void)create_stream(&stream);
  const Buffer<int32_t> x(std::vector<int32_t>(100, 0));
  bool ok = begin_capture(stream) == Status::kOk;
  ok &= features::add_one(x.get(), 100, stream) == Status::kOk;
  ok &= features::add_one(x.get(), 50, stream) == Status::kOk;
  ok &= end_capture(stream, &graph) == Status::kOk;
  report("capture runs nothing", ok && x.values()[0] == 0, last_error());
  for (int i = 0; i < 3; ++i) ok &= launch_graph(graph, stream) == Status::kOk;
  ok &= synchronize(stream) == Status::kOk;
  const std::vector<int32_t> v = x.values();
  report("a graph runs what was captured", ok && v[0] == 6 && v[49] == 6 && v[50] == 3 && v[99] == 3,
         last_error());
  (void)destroy_graph(graph);

  // What a graph cannot hold is refused and spoils the capture; the stream is as good as new after it.
  for (const bool waits : {false, true}) {
    void* memory = nullptr;
    ok = begin_capture(stream) == Status::kOk;
    ok &= (waits ? synchronize(stream) : allocate(&memory, 256)) == Status::kDeviceError;
    ok &= end_capture(stream, &graph) == Status::kDeviceError && graph == nullptr;
    report(waits ? "no waiting in a capture" : "no memory from a capture", ok, "it was allowed");
  }
  ok = begin_capture(stream) == Status::kOk;
  ok &= features::add_one(x.get(), 1, stream) == Status::kOk;
  ok &= end_capture(stream, &graph) == Status::kOk && launch_graph(graph, stream) == Status::kOk;
  ok &= synchronize(stream) == Status::kOk;
  report("a capture after a spoiled one", ok && x.values()[0] == 7, last_error());
  (void)destroy_graph(graph);
  (void)destroy_stream(stream);
}

}  // namespace

void check_features() {
  check_votes();
  check_atomics();
  check_arithmetic();
  check_seam();
}

// ---- planted bugs ----

Outcome run_sum(Bug bug) {
  const int32_t n = 1013;
  uint32_t seed = 3;
  std::vector<float> x(static_cast<size_t>(n));
  double want = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = random_float(seed) * static_cast<float>(1 + i % 97);
    want += x[i];
  }
  const Buffer<float> dx(x);
  const Buffer<float> partial(static_cast<size_t>(planted::kSumBlocks));
  const Buffer<float> out(std::vector<float>(1, 0.0f));
  if (planted::sum(dx.get(), n, partial.get(), out.get(), nullptr, bug) != Status::kOk)
    return {last_error(), {}};
  Outcome o{"", out.values()};
  if (!(std::fabs(o.values[0] - want) <= 1e-2)) o.problem = "the sum is " + std::to_string(o.values[0]);
  return o;
}

Outcome run_gemm(Bug bug) {
  const int32_t m = 63;
  const int32_t n = 130;
  const int32_t k = 136;
  uint32_t seed = 5;
  std::vector<uint16_t> a(static_cast<size_t>(m * k));
  std::vector<uint16_t> b(static_cast<size_t>(n * k));
  for (uint16_t& v : a) v = f16_from_f32(random_float(seed));
  for (uint16_t& v : b) v = f16_from_f32(random_float(seed));
  const Buffer<uint16_t> da(a);
  const Buffer<uint16_t> db(b);
  const Buffer<float> dc(static_cast<size_t>(m * n));
  if (planted::gemm(da.get(), db.get(), dc.get(), m, n, k, nullptr, bug) != Status::kOk)
    return {last_error(), {}};
  Outcome o{"", dc.values()};
  for (int32_t i = 0; i < m * n; ++i) {
    double want = 0.0;
    for (int32_t p = 0; p < k; ++p) {
      want += static_cast<double>(f32_from_f16(a[static_cast<size_t>(i / n * k + p)])) *
              f32_from_f16(b[static_cast<size_t>(i % n * k + p)]);
    }
    const float got = o.values[static_cast<size_t>(i)];
    if (std::fabs(got - want) <= 2e-4) continue;
    o.problem =
        "element " + std::to_string(i) + " is " + std::to_string(got) + ", expected " + std::to_string(want);
    break;
  }
  return o;
}

Outcome run_farthest(Bug bug) {
  const int32_t n = 50;
  const int32_t d = 40;
  const int32_t count = 12;
  uint32_t seed = 9;
  std::vector<float> x(static_cast<size_t>(n * d));
  // Whole numbers, so that distances are exact and ties are ties.
  for (float& v : x) v = static_cast<float>(static_cast<int32_t>(next_random(seed) % 5) - 2);
  const Buffer<float> dx(x);
  const Buffer<int32_t> picked(static_cast<size_t>(count));
  if (planted::farthest(dx.get(), n, d, count, picked.get(), nullptr, bug) != Status::kOk)
    return {last_error(), {}};
  const std::vector<int32_t> got = picked.values();
  Outcome o{"", std::vector<float>(got.begin(), got.end())};
  std::vector<float> nearest(static_cast<size_t>(n), 3e38f);
  int32_t current = 0;
  for (int32_t pick = 0; pick < count; ++pick) {
    if (got[static_cast<size_t>(pick)] != current) {
      o.problem = "pick " + std::to_string(pick) + " is " + std::to_string(got[static_cast<size_t>(pick)]);
      break;
    }
    int32_t best = 0;
    for (int32_t i = 0; i < n; ++i) {
      float sum = 0.0f;
      for (int32_t j = 0; j < d; ++j) {
        const float e = x[static_cast<size_t>(i * d + j)] - x[static_cast<size_t>(current * d + j)];
        sum += e * e;
      }
      float& mine = nearest[static_cast<size_t>(i)];
      if (sum < mine) mine = sum;
      if (mine > nearest[static_cast<size_t>(best)]) best = i;
    }
    current = best;
  }
  return o;
}

Outcome run_bug(Bug bug) {
  if (bug <= Bug::kDynamicOverrun) return run_sum(bug);
  return bug <= Bug::kMisaligned ? run_gemm(bug) : run_farthest(bug);
}

}  // namespace trimtok::cuda
