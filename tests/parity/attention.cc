// Cases of attention: masks that are intervals, head groupings, key/value dtypes, extreme scores.
#include <algorithm>
#include <cmath>

#include "harness.h"

namespace trimtok::parity {
namespace {

constexpr Dtype kF32 = Dtype::kF32;

// Weights below the range of f32 may be kept as subnormals or become zero.
constexpr double kUnderflow = 1.2e-38;

enum class Mask { kCausal, kFull, kWindow, kBlocks, kRandom, kCount };
const char* const kMaskNames[] = {"causal", "full", "window", "blocks", "random"};

struct Shape {
  int32_t n_heads;
  int32_t n_kv_heads;
  int32_t head_dim;
  int64_t rows;
  int64_t keys;
};

struct Intervals {
  Array<int32_t> begin;
  Array<int32_t> end;
};

Intervals make_intervals(Rng& rng, Mask mask, int64_t rows, int64_t keys) {
  Intervals result;
  const auto n = static_cast<int32_t>(keys);
  for (int32_t t = 0; t < rows; ++t) {
    int32_t begin = 0;
    int32_t end = n;
    const int32_t position =
        std::max(n - static_cast<int32_t>(rows) + t, -1);  // the last row sees the last key
    if (mask == Mask::kCausal || mask == Mask::kWindow) end = position + 1;
    if (mask == Mask::kWindow) begin = std::max(0, end - 5);
    if (mask == Mask::kBlocks) {
      begin = t / 3 * 3 % std::max(n, 1);
      end = std::min(begin + 3, n);
    }
    if (mask == Mask::kRandom) {
      begin = rng.below(n + 1);
      end = begin + rng.below(n - begin + 1);  // some rows see nothing
    }
    result.begin.push_back(std::min(begin, end));
    result.end.push_back(end);
  }
  return result;
}

std::vector<Shape> shapes() {
  std::vector<Shape> list = {{2, 1, 16, 0, 4}, {2, 2, 8, 3, 0}};
  const int32_t heads[][2] = {{1, 1}, {4, 4}, {4, 2}, {6, 2}, {8, 1}, {3, 1}};
  int i = 0;
  for (int32_t head_dim = 1; head_dim <= 33; ++head_dim, ++i) {
    list.push_back({heads[i % 6][0], heads[i % 6][1], head_dim, 1 + i % 4, 1 + i % 9});
  }
  for (int64_t keys = 1; keys <= 35; ++keys, ++i) {
    list.push_back({heads[i % 6][0], heads[i % 6][1], 32, keys % 2 == 0 ? 1 : 3, keys});
  }
  for (int64_t rows = 2; rows <= 20; ++rows, ++i) {
    list.push_back({heads[i % 6][0], heads[i % 6][1], 64, rows, 24});
  }
  for (const int32_t head_dim : {40, 48, 56, 64, 72, 80, 96, 112, 128, 160, 256}) {
    list.push_back({4, 2, head_dim, 5, 37});
  }
  for (const int32_t head_dim : {257, 263, 320, 384, 509, 512}) {
    list.push_back({4, 2, head_dim, head_dim % 2 == 0 ? 5 : 11, 70});
  }
  for (const int64_t keys : {63, 64, 65, 127, 128, 129, 257, 511, 513, 1025})
    list.push_back({2, 1, 32, 3, keys});
  list.push_back({14, 2, 64, 1, 700});  // decode of a 0.5B model
  list.push_back({4, 4, 64, 67, 67});
  list.push_back({2, 2, 64, 130, 333});
  list.push_back({1, 1, 72, 196, 196});  // a tower's head
  list.push_back({2, 1, 32, 301, 310});
  list.push_back({2, 2, 64, 2, 3000});
  return list;
}

// A tensor of keys or values. Rows that no query sees are NaN, as fresh cache memory may be.
Tensor stored_tensor(Suite& s, Dtype dtype, const Shape& shape, const Intervals& intervals) {
  const int64_t cols = static_cast<int64_t>(shape.n_kv_heads) * shape.head_dim;
  Tensor t(dtype, shape.keys, cols, s.next_layout());
  t.fill_weight(s.rng());
  for (int64_t key = 0; key < shape.keys; ++key) {
    bool seen = false;
    for (size_t r = 0; r < intervals.begin.size(); ++r) {
      seen = seen || (key >= intervals.begin[r] && key < intervals.end[r]);
    }
    if (!seen) t.poison_row(key);
  }
  return t;
}

// What tensor cores may err beyond an f32 evaluation, in parts of sum p |v|: kernels/cuda/attention.cuh says
// which calls they take. A score errs by the roundings of q and k to f16 (0.41 2^-11 rms each, independent,
// six times that at most, of sqrt(sum (q k)^2) <= max|q| |k|) and by what sums cut off (2^-23 of |q||k| / 2
// in every step of 8); twice that is the error of a quotient of weights. Weights and values are rounded once
// more, and their sums cut off likewise.
double tensor_core_share(const Shape& shape, double scale, double max_q, double norm_q, double norm_k) {
  const double roundings = 6.0 * 0.41 * std::sqrt(2.0) * 0x1p-11 * scale * max_q * norm_k;
  const double score_sums = 0x1p-24 * (shape.head_dim / 8.0 + 1.0) * scale * norm_q * norm_k;
  const double value_sums = 0x1p-24 * (static_cast<double>(shape.keys) / 8.0 + 1.0);
  return 2.0 * (roundings + score_sums) + 2.0 * 0x1p-11 + value_sums;
}

// Allowed error per element: sum p |v| (a reference run on |v|) times the error of one probability.
std::vector<double> error_bounds(const AttentionArgs& args, const Shape& shape, const Tensor& v,
                                 double tolerance, bool tensor_cores) {
  Tensor abs_v(kF32, v.rows(), v.cols());
  for (int64_t key = 0; key < v.rows(); ++key) {
    const std::vector<float> values = v.values(key);
    for (int64_t c = 0; c < v.cols(); ++c) abs_v.f32(key)[c] = std::fabs(values[static_cast<size_t>(c)]);
  }
  const Tensor sums(kF32, args.q.rows, args.q.cols);
  AttentionArgs on_abs = args;
  on_abs.v = abs_v.matrix();
  on_abs.out = sums.matrix();
  const Execution execution(Execution::Threads::kNone, 1, 1);
  (void)ref::attention(execution.context(), on_abs);

  const auto norm = [&](const float* x) {
    double squares = 0.0;
    for (int32_t i = 0; i < shape.head_dim; ++i) squares += static_cast<double>(x[i]) * x[i];
    return std::sqrt(squares);
  };
  Tensor k_values(kF32, args.k.rows, args.k.cols);
  std::vector<double> bounds;
  std::vector<std::vector<double>> k_norms(static_cast<size_t>(shape.n_kv_heads));
  for (int64_t key = 0; key < args.k.rows; ++key) {
    GatherRowsArgs gather;
    const auto id = static_cast<int32_t>(key);
    gather.out = Matrix{k_values.row(key), kF32, 1, args.k.cols, args.k.cols * 4};
    gather.table = args.k;
    gather.ids = &id;
    (void)ref::gather_rows(ExecContext{}, gather);
    for (int32_t g = 0; g < shape.n_kv_heads; ++g) {
      k_norms[static_cast<size_t>(g)].push_back(norm(k_values.f32(key) + g * shape.head_dim));
    }
  }
  for (int64_t t = 0; t < args.q.rows; ++t) {
    for (int64_t c = 0; c < args.q.cols; ++c) {
      const auto head = static_cast<int32_t>(c / shape.head_dim);
      const auto& norms = k_norms[static_cast<size_t>(head / (shape.n_heads / shape.n_kv_heads))];
      double largest = 0.0;
      for (int32_t key = args.begin[t]; key < args.end[t]; ++key) {
        largest = std::max(largest, norms[static_cast<size_t>(key)]);
      }
      const auto* q =
          reinterpret_cast<const float*>(static_cast<const char*>(args.q.data) + t * args.q.stride);
      const double scores = std::fabs(args.scale) * norm(q + head * shape.head_dim) * largest;
      double bound = tolerance * sums.f32(t)[c] * (1.0 + scores) + kUnderflow;
      if (tensor_cores) {
        const float* head_q = q + head * shape.head_dim;
        double max_q = 0.0;
        for (int32_t i = 0; i < shape.head_dim; ++i) max_q = std::max<double>(max_q, std::fabs(head_q[i]));
        bound +=
            sums.f32(t)[c] * tensor_core_share(shape, std::fabs(args.scale), max_q, norm(head_q), largest);
        // Weights below 2^-14 of the largest are subnormal in f16.
        const int64_t kv = head / (shape.n_heads / shape.n_kv_heads) * shape.head_dim + c % shape.head_dim;
        for (int32_t key = args.begin[t]; key < args.end[t]; ++key) bound += 0x1p-25 * abs_v.f32(key)[kv];
      }
      bounds.push_back(bound);
    }
  }
  return bounds;
}

// Of queries, on their way in: the first 2 * half elements of every head. half < 0: none. packed: queries and
// angles lie as the engine has them, where wide loads reach them; else anywhere.
struct Turn {
  int32_t half = -1;
  RopePairs pairs = RopePairs::kHalves;
  bool packed = false;
};

void check_case(Suite& s, const Shape& shape, Mask mask, Dtype k_dtype, Dtype v_dtype, float scale,
                float softcap, const Turn& turn = {}) {
  const int64_t width = static_cast<int64_t>(shape.n_heads) * shape.head_dim;
  const Intervals intervals = make_intervals(s.rng(), mask, shape.rows, shape.keys);
  const auto layout = [&] { return turn.packed ? Layout{} : s.next_layout(); };
  Tensor q(kF32, shape.rows, width, layout());
  q.fill_normal(s.rng());
  const Tensor k = stored_tensor(s, k_dtype, shape, intervals);
  const Tensor v = stored_tensor(s, v_dtype, shape, intervals);
  const Tensor out(kF32, shape.rows, width, s.next_layout());
  const bool turned = turn.half >= 0;
  const Tensor cos(kF32, shape.rows, std::max(turn.half, 0), layout());
  const Tensor sin(kF32, shape.rows, std::max(turn.half, 0), layout());
  for (int64_t t = 0; t < shape.rows; ++t) {
    for (int32_t i = 0; i < turn.half; ++i) {
      const float angle = s.rng().uniform(-3.0f, 3.0f);
      cos.f32(t)[i] = 1.2f * std::cos(angle);  // YaRN scales its tables
      sin.f32(t)[i] = 1.2f * std::sin(angle);
    }
  }
  const auto make = [&](const Matrix& m) {
    AttentionArgs args{m,
                       q.matrix(),
                       k.matrix(),
                       v.matrix(),
                       shape.n_heads,
                       shape.n_kv_heads,
                       shape.head_dim,
                       scale,
                       softcap,
                       intervals.begin.data(),
                       intervals.end.data()};
    if (turned) args.rotation = {cos.matrix(), sin.matrix(), turn.pairs};
    return args;
  };
  // Bounds are of the queries that meet the keys. A rotation errs by 3 * 2^-24 of a pair's length at most,
  // and at random: no more than a share of the allowance for products of the same length.
  const Tensor turned_q = q.clone();
  AttentionArgs met = make(out.matrix());
  if (turned) {
    (void)ref::rope(ExecContext{},
                    RopeArgs{turned_q.matrix(), shape.head_dim, cos.matrix(), sin.matrix(), turn.pairs});
    met.q = turned_q.matrix();
    met.rotation = {};
  }
  const bool tensor_cores = on_device(s.table()) && shape.rows > 8 && shape.head_dim <= 256;
  const std::vector<double> bounds = error_bounds(met, shape, v, s.tolerance(), tensor_cores);
  s.compare<AttentionArgs>(&KernelTable::attention, out, make, [&](int64_t t, int64_t c, double) {
    return bounds[static_cast<size_t>(t * width + c)];
  });
}

void check_rejections(Suite& s) {
  const Shape shape{4, 2, 32, 3, 6};
  const Intervals all{{0, 0, 0}, {6, 6, 6}};
  Tensor q(kF32, 3, 128);
  q.fill_normal(s.rng());
  const Tensor k = stored_tensor(s, Dtype::kQ8_0, shape, all);
  const Tensor out(kF32, 3, 128);
  const AttentionArgs good{out.matrix(), q.matrix(), k.matrix(),       k.matrix(),    4, 2, 32,
                           1.0f,         0.0f,       all.begin.data(), all.end.data()};
  const Intervals wrong[] = {{{0, 0, 0}, {6, 7, 6}},
                             {{0, -1, 0}, {6, 6, 6}},
                             {{0, 1, 0}, {0, 0, 0}},
                             {{0, 7, 0}, {6, 0x7fffffff, 6}}};
  for (const Intervals& intervals : wrong) {
    AttentionArgs bad = good;
    bad.begin = intervals.begin.data();
    bad.end = intervals.end.data();
    s.expect_contents_rejected(&KernelTable::attention, out, bad, 1);
  }
  const Tensor angles(kF32, 3, 16);
  for (int kind = 3; kind < 18; ++kind) {
    AttentionArgs bad = good;
    if (kind >= 13) bad.rotation = {angles.matrix(), angles.matrix()};
    if (kind == 3) bad.begin = nullptr;
    if (kind == 4) bad.n_kv_heads = 3;
    if (kind == 5) bad.n_heads = 0;
    if (kind == 6) bad.head_dim = 31;
    if (kind == 7) bad.scale = NAN;
    if (kind == 8) bad.softcap = -1.0f;
    if (kind == 9) bad.k.dtype = Dtype::kQ4_0;
    if (kind == 10) bad.v.rows = 5;
    if (kind == 11) bad.n_heads = 8, bad.n_kv_heads = 4, bad.head_dim = 16;  // Q8_0 heads within one block
    if (kind == 12) bad.out.rows = 2;
    if (kind == 13) bad.rotation.cos.rows = 2;
    if (kind == 14) bad.rotation.sin.cols = 15;
    if (kind == 15) bad.rotation.cos.cols = bad.rotation.sin.cols = 17;  // R = 34 of 32
    if (kind == 16) bad.rotation.sin.data = nullptr;
    if (kind == 17) bad.rotation.pairs = static_cast<RopePairs>(-1);
    s.expect_rejected(&KernelTable::attention, out, bad);
  }
}

// Few and many queries, with and without keys in chunks; all of a head turned, or the first part of it.
void check_turned(Suite& s) {
  const Shape list[] = {{1, 1, 1, 1, 4},    {2, 1, 2, 2, 5},    {4, 2, 8, 1, 9},     {6, 2, 33, 2, 11},
                        {8, 1, 64, 1, 300}, {4, 4, 66, 3, 20},  {14, 2, 64, 1, 700}, {2, 1, 32, 20, 24},
                        {4, 2, 72, 37, 37}, {3, 1, 10, 50, 12}, {4, 2, 257, 11, 70}, {2, 2, 128, 130, 140},
                        {2, 2, 64, 67, 600}};
  const Dtype dtypes[] = {Dtype::kF16, Dtype::kQ8_0, Dtype::kF32, Dtype::kBF16};
  int variant = 0;
  for (const Shape& shape : list) {
    for (const RopePairs pairs : {RopePairs::kHalves, RopePairs::kAdjacent}) {
      const auto mask = static_cast<Mask>(variant % static_cast<int>(Mask::kCount));
      Dtype dtype = dtypes[variant % 4];
      if (shape.head_dim % 32 != 0 && dtype == Dtype::kQ8_0) dtype = Dtype::kF16;
      const int32_t half = variant / 2 % 3 == 1 ? (shape.head_dim + 2) / 5 : shape.head_dim / 2;
      ++variant;
      if (!s.begin_case("H=%d G=%d E=%d T=%d S=%d mask=%s kv=%s R=%d pairs=%d", shape.n_heads,
                        shape.n_kv_heads, shape.head_dim, static_cast<int>(shape.rows),
                        static_cast<int>(shape.keys), kMaskNames[static_cast<int>(mask)],
                        dtype_info(dtype)->name, 2 * half, static_cast<int>(pairs))) {
        continue;
      }
      const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
      check_case(s, shape, mask, dtype, dtype, scale, 0.0f, {half, pairs});
    }
  }
}

// Queries and angles that a device loads 16 bytes at a time: all of a head, the first part of it, and eights
// of which a part is turned. --quick leaves none of them out.
void check_turned_in_packs(Suite& s) {
  const Shape list[] = {{2, 1, 64, 20, 40}, {2, 2, 80, 66, 70}, {1, 1, 36, 9, 12}};
  for (const Shape& shape : list) {
    for (const int32_t half : {shape.head_dim / 2, 12, 6}) {
      for (const RopePairs pairs : {RopePairs::kHalves, RopePairs::kAdjacent}) {
        if (!s.begin_case("H=%d G=%d E=%d T=%d S=%d packed R=%d pairs=%d", shape.n_heads, shape.n_kv_heads,
                          shape.head_dim, static_cast<int>(shape.rows), static_cast<int>(shape.keys),
                          2 * half, static_cast<int>(pairs))) {
          continue;
        }
        const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
        check_case(s, shape, Mask::kCausal, Dtype::kF16, Dtype::kF16, scale, 0.0f, {half, pairs, true});
      }
    }
  }
}

}  // namespace

void check_attention(Suite& s) {
  if (on_device(s.table())) check_turned_in_packs(s);
  const Dtype dtypes[] = {Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kQ8_0};
  int variant = 0;
  for (const Shape& shape : shapes()) {
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto mask = static_cast<Mask>(variant % static_cast<int>(Mask::kCount));
      Dtype k_dtype = dtypes[variant % 4];
      Dtype v_dtype = dtypes[variant % 3 == 0 ? (variant / 4) % 4 : variant % 4];
      if (shape.head_dim % 32 != 0 && k_dtype == Dtype::kQ8_0) k_dtype = Dtype::kF16;
      if (shape.head_dim % 32 != 0 && v_dtype == Dtype::kQ8_0) v_dtype = Dtype::kBF16;
      const float softcap = variant % 6 == 5 ? 2.5f : 0.0f;
      // Large: one key takes everything and exp of the others underflows. Zero: the plain mean.
      const float kinds[] = {1.0f, 40.0f, 1.0f, 0.0f, -1.0f};
      const float scale = kinds[variant / 2 % 5] / std::sqrt(static_cast<float>(shape.head_dim));
      ++variant;
      if (!s.begin_case("H=%d G=%d E=%d T=%d S=%d mask=%s k=%s v=%s scale=%g softcap=%g", shape.n_heads,
                        shape.n_kv_heads, shape.head_dim, static_cast<int>(shape.rows),
                        static_cast<int>(shape.keys), kMaskNames[static_cast<int>(mask)],
                        dtype_info(k_dtype)->name, dtype_info(v_dtype)->name, static_cast<double>(scale),
                        static_cast<double>(softcap))) {
        continue;
      }
      check_case(s, shape, mask, k_dtype, v_dtype, scale, softcap);
    }
  }
  check_turned(s);
  if (s.begin_case("bad arguments")) check_rejections(s);
}

}  // namespace trimtok::parity
