// The model of tile_unit.h against a literal transcription of the manual's loops, its complaints, and the
// verbs of simd/tiles.h as instructions, executed by the model or by the processor. Compiled at every -O
// level by tests/test_isa_objects.py: the configuration that reaches the unit must be the one that was
// written.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "tile_unit.h"
#include "trimtok/view.h"

namespace trimtok::parity {
namespace {

#include "kernels/cpu/simd/tiles.h"

int g_failures = 0;

void expect(bool ok, const char* what) {
  if (ok) return;
  ++g_failures;
  std::printf("FAIL %s\n", what);
}

struct Shape {
  int rows;
  int cols;
  int words;  // depth
};
constexpr Shape kShapes[] = {{16, 16, 16}, {16, 16, 8}, {16, 16, 4}, {1, 16, 16},
                             {16, 1, 16},  {16, 16, 1}, {7, 3, 5},   {1, 1, 1}};

// ---- The manual, word for word. ----

float flushed(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}

float make_fp32(uint32_t pair, int half) {
  const uint32_t bits = half == 0 ? pair << 16 : pair & 0xffff0000u;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

float fma_flushed(float a, float b, float c) {
  return flushed(std::fma(flushed(a), flushed(b), flushed(c)));
}

float add_flushed(float a, float b) {
  return flushed(flushed(a) + flushed(b));
}

using Words = uint32_t[16][16];

void literal_bf16(const Shape& s, Words& sums, const Words& a, const Words& b) {
  for (int m = 0; m < s.rows; ++m) {
    float temp[32] = {};
    for (int k = 0; k < s.words; ++k) {
      for (int n = 0; n < s.cols; ++n) {
        for (int half = 0; half < 2; ++half) {
          temp[2 * n + half] =
              fma_flushed(make_fp32(a[m][k], half), make_fp32(b[k][n], half), temp[2 * n + half]);
        }
      }
    }
    for (int n = 0; n < s.cols; ++n) {
      float sum;
      std::memcpy(&sum, &sums[m][n], sizeof(sum));
      sum = add_flushed(sum, add_flushed(temp[2 * n], temp[2 * n + 1]));
      std::memcpy(&sums[m][n], &sum, sizeof(sum));
    }
  }
}

void literal_int8(const Shape& s, Words& sums, const Words& a, const Words& b) {
  for (int m = 0; m < s.rows; ++m) {
    for (int k = 0; k < s.words; ++k) {
      for (int n = 0; n < s.cols; ++n) {
        for (int i = 0; i < 4; ++i) {
          const int x = static_cast<int8_t>(a[m][k] >> (8 * i));
          const int w = static_cast<uint8_t>(b[k][n] >> (8 * i));
          sums[m][n] += static_cast<uint32_t>(x * w);
        }
      }
    }
  }
}

// ---- Inputs. ----

uint64_t g_state = 1;
uint32_t random_word() {  // splitmix64
  uint64_t z = g_state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
}

// 0: ordinary numbers; 1: any bits: infinities, NaNs, denormals; 2: products around the smallest normal one.
uint32_t random_bf16(int kind) {
  const uint32_t bits = random_word();
  if (kind == 1) return bits & 0xffff;
  const uint32_t exponent = kind == 0 ? 120 + (bits >> 20) % 14 : (bits >> 20) % 130;
  return (bits & 0x807f) | exponent << 7;
}

void fill(Words& words, int kind) {
  for (auto& row : words) {
    for (uint32_t& word : row) {
      word = kind < 0 ? random_word() : random_bf16(kind) | random_bf16(kind) << 16;
    }
  }
}

bool same(const Words& expected, const Words& actual, const Shape& s, bool floats) {
  for (int m = 0; m < s.rows; ++m) {
    for (int n = 0; n < s.cols; ++n) {
      float e;
      float a;
      std::memcpy(&e, &expected[m][n], sizeof(e));
      std::memcpy(&a, &actual[m][n], sizeof(a));
      if (floats && std::isnan(e) && std::isnan(a)) continue;
      if (expected[m][n] != actual[m][n]) return false;
    }
  }
  return true;
}

// ---- Checks. ----

struct Product {
  Shape shape;
  int kind;  // as in random_bf16, or -1: bytes
  Words sums;
  Words a;
  Words b;
  Words expected;
};

Product random_product(const Shape& shape, int kind) {
  Product p = {};
  p.shape = shape;
  p.kind = kind;
  fill(p.sums, kind);
  fill(p.a, kind);
  fill(p.b, kind);
  std::memcpy(p.expected, p.sums, sizeof(p.sums));
  if (kind < 0) {
    literal_int8(shape, p.expected, p.a, p.b);
  } else {
    literal_bf16(shape, p.expected, p.a, p.b);
  }
  return p;
}

void configure_for(const Shape& s, TileConfig* config) {
  config->palette = 1;
  config->row_bytes[1] = config->row_bytes[5] = static_cast<uint16_t>(4 * s.cols);
  config->row_bytes[3] = static_cast<uint16_t>(4 * s.words);
  config->rows[1] = config->rows[3] = static_cast<uint8_t>(s.rows);
  config->rows[5] = static_cast<uint8_t>(s.words);
}

void check_model(const Product& p) {
  TileConfig config = {};
  configure_for(p.shape, &config);
  TileUnit unit;
  Words result = {};
  bool ok = unit.configure(&config) == nullptr && unit.load(1, p.sums, 64) == nullptr &&
            unit.load(3, p.a, 64) == nullptr && unit.load(5, p.b, 64) == nullptr;
  ok = ok && (p.kind < 0 ? unit.dot_int8(1, 3, 5) : unit.dot_bf16(1, 3, 5)) == nullptr;
  ok = ok && unit.store(1, result, 64) == nullptr;
  expect(ok && same(p.expected, result, p.shape, p.kind >= 0), "the model differs from the manual");
  const Shape beyond = {16, 16, 0};
  Words untouched = {};
  for (int m = 0; m < p.shape.rows; ++m) {
    for (int n = 0; n < p.shape.cols; ++n) untouched[m][n] = result[m][n];
  }
  expect(same(untouched, result, beyond, false), "a store wrote beyond its tile");
}

// Alone in a function, so that nothing but the instruction itself makes the compiler write what it reads:
// with GCC 12's _tile_loadconfig, 56 of the 64 bytes are lost here from -O2 on.
[[gnu::noinline]] void configure_alone(const Shape& s) {
  TileConfig config = {};
  configure_for(s, &config);
  tiles_configure(config);
}

void check_instructions(const Product& p) {
  Words result = {};
  configure_alone(p.shape);
  tile_zero<1>();
  tile_load<1>(p.sums, 64);
  // Through an offset, and from a base that is not where the tile starts.
  tile_load<3, 192>(reinterpret_cast<const char*>(p.a) - 192, 64);
  tile_load<5>(p.b, 64);
  if (p.kind < 0) {
    tile_dot_int8<1, 3, 5>();
  } else {
    tile_dot_bf16<1, 3, 5>();
  }
  tile_store<1>(result, 64);
  tiles_release();
  expect(same(p.expected, result, p.shape, p.kind >= 0), "instructions differ from the manual");
}

void check_complaints() {
  TileConfig sound = {};
  configure_for({16, 16, 16}, &sound);
  Words memory = {};
  const auto refused = [](const TileConfig& config) {
    TileUnit unit;
    return unit.configure(&config) != nullptr && !unit.configured();
  };
  for (int kind = 0; kind < 8; ++kind) {
    TileConfig bad = sound;
    if (kind == 0) bad.palette = 0;
    if (kind == 1) bad.palette = 2;
    if (kind == 2) bad.start_row = 1;
    if (kind == 3) bad.reserved[13] = 1;
    if (kind == 4) bad.rows[1] = 0;
    if (kind == 5) bad.rows[1] = 17;
    if (kind == 6) bad.row_bytes[1] = 65;
    if (kind == 7) bad.rows[8] = 1;
    expect(refused(bad), "a bad configuration is accepted");
  }
  TileUnit unit;
  expect(unit.load(1, memory, 64) != nullptr, "a tile without configuration");
  expect(unit.configure(&sound) == nullptr, "a sound configuration is refused");
  expect(unit.zero(1) == nullptr && unit.zero(2) != nullptr, "a tile that the configuration leaves out");
  expect(unit.dot_bf16(1, 3, 5) == nullptr, "a sound product is refused");
  expect(unit.dot_bf16(1, 3, 3) != nullptr, "a product of a tile with itself");
  for (int kind = 0; kind < 4; ++kind) {
    TileConfig bad = sound;
    if (kind == 0) bad.rows[3] = 15;
    if (kind == 1) bad.row_bytes[5] = 60;
    if (kind == 2) bad.row_bytes[3] = 60;
    if (kind == 3) bad.row_bytes[3] = bad.row_bytes[5] = 62;
    expect(unit.configure(&bad) == nullptr && unit.dot_int8(1, 3, 5) != nullptr, "a product out of shape");
  }
  (void)unit.release();
  expect(unit.store(1, memory, 64) != nullptr, "a tile after its release");
}

// What the trap tells of misuse, and that it goes on behind it.
void check_trapped_complaints() {
  Words memory = {};
  expect(take_tile_complaint() == nullptr, "a complaint without a reason");
  tile_load<2>(memory, 64);
  expect(take_tile_complaint() != nullptr, "a tile is loaded while none is configured");
  TileConfig config = {};
  configure_for({16, 16, 16}, &config);
  tiles_configure(config);
  expect(take_tile_complaint() != nullptr, "tiles are left configured");
  tile_dot_bf16<1, 5, 7>();
  tiles_release();
  expect(take_tile_complaint() != nullptr, "a tile is used that was left out");
  expect(take_tile_complaint() == nullptr, "a complaint is made twice");
}

int run() {
  const bool trapped = trap_tile_instructions();
  if (!trapped) {
    std::printf("SKIP: tile instructions do not trap here, or this processor cannot run the model\n");
    return 77;
  }
  for (const Shape& shape : kShapes) {
    for (int kind = -1; kind <= 2; ++kind) {
      const Product p = random_product(shape, kind);
      check_model(p);
      check_instructions(p);
    }
  }
  check_complaints();
  check_trapped_complaints();
  std::printf("tile unit: %d failures, %lld instructions trapped\n", g_failures,
              static_cast<long long>(trapped_tile_instructions()));
  return g_failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace trimtok::parity

int main() {
  return trimtok::parity::run();
}
