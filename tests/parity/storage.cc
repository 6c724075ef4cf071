// Cases of the ops that read or write stored formats: gather_rows and convert_rows.
#include <algorithm>
#include <cmath>
#include <limits>

#include "harness.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::parity {
namespace {

constexpr Dtype kF32 = Dtype::kF32;

// What a converter meets: ordinary numbers; any bit pattern; ties between two f16 or bf16 neighbours; values
// around the ends of the f16 range; blocks that Q8_0 cannot hold.
enum class Values { kOrdinary, kAnyBits, kTies, kRangeEnds, kHuge, kTiny };

float convert_input(Rng& rng, Values values) {
  switch (values) {
    case Values::kOrdinary:
      return rng.normal();
    case Values::kAnyBits:
      return f32_from_bits(static_cast<uint32_t>(rng.next()));
    case Values::kTies: {
      // f16 keeps 10 mantissa bits, bf16 7: the pattern 1000... below them is a tie; sometimes one off.
      const uint32_t dropped = rng.below(2) == 0 ? 13 : 16;
      const auto exponent = static_cast<uint32_t>(108 + rng.below(30)) << 23;
      const uint32_t kept = (static_cast<uint32_t>(rng.next()) & 0x7fffffu) >> dropped << dropped;
      const uint32_t bits = exponent | kept | (1u << (dropped - 1));
      return f32_from_bits(bits + static_cast<uint32_t>(rng.below(3)) - 1u);
    }
    case Values::kRangeEnds:
      return (rng.below(2) == 0 ? 65504.0f : 5.9604645e-8f) * rng.uniform(0.4f, 1.1f) *
             (rng.below(2) == 0 ? 1.0f : -1.0f);
    case Values::kHuge:
      return 1e9f * rng.normal();
    case Values::kTiny:
      return 1e-8f * rng.normal();
  }
  return 0.0f;
}

struct RotatedShape {
  int32_t head_dim;
  int32_t n_heads;
  int64_t rows;
};

// Heads that are rotated on their way into the cache. Inputs and angles are small multiples of 1/64, so that
// every rotation is exact in f32 and what is stored is prescribed to the bit.
void check_rotated(Suite& s, Dtype dtype) {
  std::vector<RotatedShape> shapes = {{1, 3, 2},  {2, 5, 1},  {3, 2, 4},  {6, 3, 70}, {10, 1, 3},
                                      {18, 2, 5}, {33, 2, 3}, {72, 1, 9}, {64, 2, 1}, {80, 3, 33}};
  if (dtype == Dtype::kQ8_0) {
    shapes = {{32, 1, 2}, {32, 3, 70}, {64, 2, 1}, {16, 2, 3}, {4, 8, 5}, {96, 1, 9}, {128, 2, 4}};
  }
  int variant = 0;
  for (const RotatedShape& shape : shapes) {
    const int64_t half = variant % 3 == 1 ? shape.head_dim / 4 : shape.head_dim / 2;
    const auto pairs = variant % 2 == 0 ? RopePairs::kHalves : RopePairs::kAdjacent;
    const bool scattered = variant % 4 > 1;
    ++variant;
    if (!s.begin_case("%s T=%d heads=%d head_dim=%d R=%d pairs=%d%s", dtype_info(dtype)->name,
                      static_cast<int>(shape.rows), shape.n_heads, shape.head_dim, static_cast<int>(2 * half),
                      static_cast<int>(pairs), scattered ? " at" : "")) {
      continue;
    }
    const auto multiples = [&](int64_t cols, int32_t most) {
      Tensor t(kF32, shape.rows, cols, s.next_layout());
      for (int64_t r = 0; r < shape.rows; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          t.f32(r)[c] = static_cast<float>(s.rng().below(2 * most + 1) - most) / 64.0f;
        }
      }
      return t;
    };
    const int64_t width = static_cast<int64_t>(shape.n_heads) * shape.head_dim;
    const Tensor x = multiples(width, 127);
    const Tensor cos = multiples(half, 64);
    const Tensor sin = multiples(half, 64);
    const Tensor out(dtype, scattered ? shape.rows + 2 : shape.rows, width, s.next_layout());
    Array<int32_t> at;
    for (int64_t r = 0; r < shape.rows; ++r) at.push_back(static_cast<int32_t>(shape.rows - r));
    s.compare<ConvertRowsArgs>(
        &KernelTable::convert_rows, out,
        [&](const Matrix& m) {
          ConvertRowsArgs args{m, x.matrix(), scattered ? at.data() : nullptr};
          args.rotation = {cos.matrix(), sin.matrix(), pairs};
          args.head_dim = shape.head_dim;
          return args;
        },
        exact, true);  // rows that nobody writes stay NaN
  }
}

void check_rotation_rejections(Suite& s) {
  const Tensor x(kF32, 2, 64);
  const Tensor angles(kF32, 2, 8);
  const Tensor out(Dtype::kQ8_0, 2, 64);
  ConvertRowsArgs good{out.matrix(), x.matrix()};
  good.rotation = {angles.matrix(), angles.matrix()};
  good.head_dim = 16;
  for (int kind = 0; kind < 7; ++kind) {
    ConvertRowsArgs bad = good;
    if (kind == 0) bad.rotation.cos.rows = 1;
    if (kind == 1) bad.rotation.sin.cols = 7;
    if (kind == 2) bad.rotation.sin.data = nullptr;
    if (kind == 3) bad.rotation.pairs = static_cast<RopePairs>(2);
    if (kind == 4) bad.head_dim = 8;   // R = 16 is wider
    if (kind == 5) bad.head_dim = 24;  // does not divide 64
    if (kind == 6) bad.head_dim = 0;
    s.expect_rejected(&KernelTable::convert_rows, out, bad);
  }
}

}  // namespace

void check_gather_rows(Suite& s) {
  std::vector<Dtype> dtypes;
#define TT_DTYPE(name, id, block_elems, block_bytes, use) \
  if (DtypeUse::use == DtypeUse::kWeight) dtypes.push_back(Dtype::k##name);
#include "trimtok/dtypes.def"
#undef TT_DTYPE
  for (const Dtype dtype : dtypes) {
    const DtypeInfo& info = *dtype_info(dtype);
    std::vector<int64_t> widths = {0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 64};
    if (info.block_elems == 1) {
      widths.clear();
      for (int64_t d = 0; d <= 35; ++d) widths.push_back(d);
      widths.push_back(577);
    } else if (info.block_elems == 256) {
      widths = {0, 1, 2, 3, 5, 8};
    }
    int variant = 0;
    for (const int64_t blocks : widths) {
      const int64_t cols = blocks * info.block_elems;
      const int64_t rows = blocks == 2 ? 0 : blocks == 3 ? 65 : 1 + variant % 5;
      const float scale = variant % 3 == 0 ? 1.0f : variant % 3 == 1 ? 45.254834f : -0.37f;
      ++variant;
      if (!s.begin_case("%s T=%d D=%d scale=%g", info.name, static_cast<int>(rows), static_cast<int>(cols),
                        static_cast<double>(scale))) {
        continue;
      }
      Tensor table(dtype, 7, cols, s.next_layout());
      table.fill_weight(s.rng());
      Array<int32_t> ids;
      for (int64_t t = 0; t < rows; ++t) ids.push_back(s.rng().below(6));
      if (!ids.empty()) ids.back() = 6;
      const Tensor out(kF32, rows, cols, s.next_layout());
      s.compare<GatherRowsArgs>(
          &KernelTable::gather_rows, out,
          [&](const Matrix& m) {
            return GatherRowsArgs{m, table.matrix(), ids.data(), scale};
          },
          exact);
    }
  }
  if (s.begin_case("bad arguments")) {
    Tensor table(Dtype::kQ4_K, 7, 256);
    table.fill_weight(s.rng());
    const Tensor out(kF32, 2, 256);
    const Array<int32_t> ids = {0, 6};
    const GatherRowsArgs good{out.matrix(), table.matrix(), ids.data(), 1.0f};
    for (int kind = 0; kind < 7; ++kind) {
      GatherRowsArgs bad = good;
      if (kind == 0) bad.ids = nullptr;
      if (kind == 1) bad.scale = std::numeric_limits<float>::infinity();
      if (kind == 2) bad.table.dtype = Dtype::kIQ2_XXS;  // recognised, not a weight
      if (kind == 3) bad.table.dtype = Dtype::kQ8_1;     // run time only
      if (kind == 4) bad.table.dtype = static_cast<Dtype>(4);
      if (kind == 5) bad.table.stride = 143;
      if (kind == 6) bad.table.rows = std::numeric_limits<int64_t>::max();
      s.expect_rejected(&KernelTable::gather_rows, out, bad);
    }
    for (const int32_t id : {-1, 7, 0x7fffffff}) {
      const Array<int32_t> wrong = {0, id};
      GatherRowsArgs bad = good;
      bad.ids = wrong.data();
      s.expect_contents_rejected(&KernelTable::gather_rows, out, bad, 1);
    }
  }
}

void check_convert_rows(Suite& s) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kQ8_0}) {
    int variant = 0;
    for (int64_t i = 0; i <= 40; ++i) {
      const int64_t blocks = i <= 35 ? i : 40 * (i - 35) + i % 3;
      const int64_t cols = dtype == Dtype::kQ8_0 ? 32 * (blocks % 37) : blocks;
      const int64_t rows = i == 17 ? 0 : i == 18 ? 70 : 1 + variant % 4;
      const auto values = static_cast<Values>(variant % 6);
      const bool scattered = variant % 5 > 2;
      ++variant;
      if (!s.begin_case("%s T=%d D=%d values=%d%s", dtype_info(dtype)->name, static_cast<int>(rows),
                        static_cast<int>(cols), static_cast<int>(values), scattered ? " at" : "")) {
        continue;
      }
      const Tensor x(kF32, rows, cols, s.next_layout());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < cols; ++c) x.f32(r)[c] = convert_input(s.rng(), values);
        // One block of zeros, and one non-finite value in an ordinary block.
        if (cols >= 64 && variant % 2 == 0) std::fill_n(x.f32(r) + 32, 32, r % 2 == 0 ? 0.0f : -0.0f);
        if (cols >= 96 && variant % 5 == 0) x.f32(r)[64 + s.rng().below(32)] = r % 2 == 0 ? NAN : -INFINITY;
      }
      // Scattered: backwards, every other row, the first two and the last left alone.
      const Tensor out(dtype, scattered ? 2 * rows + 2 : rows, cols, s.next_layout());
      Array<int32_t> at;
      for (int64_t r = 0; r < rows; ++r) at.push_back(static_cast<int32_t>(2 * (rows - r)));
      s.compare<ConvertRowsArgs>(
          &KernelTable::convert_rows, out,
          [&](const Matrix& m) {
            return ConvertRowsArgs{m, x.matrix(), scattered ? at.data() : nullptr};
          },
          exact, true);
    }
    check_rotated(s, dtype);
  }
  if (s.begin_case("bad arguments")) {
    check_rotation_rejections(s);
    const Tensor x(kF32, 2, 64);
    const Tensor out(Dtype::kQ8_0, 2, 64);
    const ConvertRowsArgs good{out.matrix(), x.matrix()};
    for (int kind = 0; kind < 6; ++kind) {
      ConvertRowsArgs bad = good;
      if (kind == 0) bad.out.dtype = Dtype::kQ4_0;
      if (kind == 1) bad.x.cols = 32;
      if (kind == 2) bad.out.cols = bad.x.cols = 33;
      if (kind == 3) bad.x.dtype = Dtype::kF16;
      if (kind == 4) bad.out.stride = 67;
      if (kind == 5) bad.x.rows = 1;
      s.expect_rejected(&KernelTable::convert_rows, out, bad);
    }
    // Row 0 is nobody's place, so it stays as it was: NaN.
    for (const int32_t place : {-1, 2, -0x7fffffff, 0x7fffffff}) {
      const Array<int32_t> wrong = {1, place};
      ConvertRowsArgs bad = good;
      bad.at = wrong.data();
      s.expect_contents_rejected(&KernelTable::convert_rows, out, bad, 0);
    }
  }
}

}  // namespace trimtok::parity
