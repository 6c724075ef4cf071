// Cases of the ops that work row by row, and of gather_rows.
#include <algorithm>
#include <cmath>

#include "harness.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::parity {
namespace {

constexpr Dtype kF32 = Dtype::kF32;

struct Shape {
  int64_t rows;
  int64_t cols;
};

// 0..2N+1 around every vector width up to 16 lanes, unrolled widths, widths of real models; one row, odd
// numbers of rows, many rows.
std::vector<Shape> shapes() {
  std::vector<Shape> list = {{0, 8}, {3, 0}, {67, 40}, {129, 33}, {577, 16}};
  for (int64_t d = 1; d <= 33; ++d) {
    list.push_back({1, d});
    list.push_back({2 + d % 4, d});
  }
  for (const int64_t d : {47, 48, 49, 63, 64, 65, 95, 96, 97, 127, 128, 129, 255, 256, 257})
    list.push_back({3, d});
  for (const int64_t d : {576, 896, 1024, 1152, 2048, 4304}) list.push_back({d % 3 + 1, d});
  return list;
}

Tensor random_tensor(Suite& s, int64_t rows, int64_t cols, float scale = 1.0f, float mean = 0.0f) {
  Tensor t(kF32, rows, cols, s.next_layout());
  t.fill_normal(s.rng(), scale, mean);
  return t;
}

// Output memory, poisoned; or, for a call in place, holding what the aliased input holds.
Tensor output_tensor(Suite& s, int64_t rows, int64_t cols, const Tensor* aliased = nullptr) {
  Tensor out(kF32, rows, cols, s.next_layout());
  if (aliased == nullptr) return out;
  for (int64_t r = 0; r < rows; ++r) std::copy_n(aliased->f32(r), cols, out.f32(r));
  return out;
}

struct Moments {
  double mean_abs;  // what the rounding error of the mean is relative to
  double sigma;
};

Moments row_moments(const Tensor& x, int64_t r, double eps) {
  const auto n = static_cast<double>(x.cols());
  double sum = 0.0;
  double sum_abs = 0.0;
  for (int64_t i = 0; i < x.cols(); ++i) {
    sum += x.f32(r)[i];
    sum_abs += std::fabs(x.f32(r)[i]);
  }
  double squares = 0.0;
  for (int64_t i = 0; i < x.cols(); ++i) squares += (x.f32(r)[i] - sum / n) * (x.f32(r)[i] - sum / n);
  return {sum_abs / n, std::sqrt(squares / n + eps)};
}

const float* vector_or_null(const Tensor& t, bool present) {
  return present ? t.f32(0) : nullptr;
}

}  // namespace

void check_rms_norm(Suite& s) {
  int variant = 0;
  for (const Shape& shape : shapes()) {
    const bool weighted = variant % 4 != 1;
    const bool in_place = variant % 3 == 2;
    const float scale = variant % 7 == 3 ? 1e-4f : variant % 7 == 5 ? 1e4f : 1.0f;
    ++variant;
    if (!s.begin_case("T=%d D=%d weight=%d in_place=%d scale=%g", static_cast<int>(shape.rows),
                      static_cast<int>(shape.cols), weighted, in_place, static_cast<double>(scale))) {
      continue;
    }
    const Tensor x = random_tensor(s, shape.rows, shape.cols, scale);
    const Tensor weight = random_tensor(s, 1, shape.cols, 1.0f, 0.5f);
    const Tensor out = output_tensor(s, shape.rows, shape.cols, in_place ? &x : nullptr);
    s.compare<RmsNormArgs>(
        &KernelTable::rms_norm, out,
        [&](const Matrix& m) {
          return RmsNormArgs{m, in_place ? ConstMatrix(m) : ConstMatrix(x.matrix()),
                             vector_or_null(weight, weighted), 1e-6f};
        },
        [&](int64_t, int64_t, double expected) { return s.tolerance() * std::fabs(expected); });
  }
  if (s.begin_case("bad arguments")) {
    const Tensor x = random_tensor(s, 3, 8);
    const Tensor out = output_tensor(s, 3, 8);
    const RmsNormArgs good{out.matrix(), x.matrix(), nullptr, 1e-6f};
    for (int kind = 0; kind < 6; ++kind) {
      RmsNormArgs bad = good;
      if (kind == 0) bad.x.cols = 7;
      if (kind == 1) bad.x.rows = 2;
      if (kind == 2) bad.x.data = nullptr;
      if (kind == 3) bad.eps = NAN;
      if (kind == 4) bad.x.dtype = Dtype::kF16;
      if (kind == 5) bad.out.stride = 8;
      s.expect_rejected(&KernelTable::rms_norm, out, bad);
    }
  }
}

void check_layer_norm(Suite& s) {
  int variant = 0;
  for (const Shape& shape : shapes()) {
    const bool weighted = variant % 4 != 1;
    const bool biased = variant % 4 != 2;
    const bool in_place = variant % 3 == 2;
    // A mean far from zero: the textbook E[x^2] - E[x]^2 loses all digits in f32 there.
    const float mean = variant % 5 == 3 ? 1000.0f : variant % 5 == 4 ? -20.0f : 0.1f;
    ++variant;
    if (!s.begin_case("T=%d D=%d weight=%d bias=%d in_place=%d mean=%g", static_cast<int>(shape.rows),
                      static_cast<int>(shape.cols), weighted, biased, in_place, static_cast<double>(mean))) {
      continue;
    }
    const Tensor x = random_tensor(s, shape.rows, shape.cols, 1.0f, mean);
    const Tensor weight = random_tensor(s, 1, shape.cols, 1.0f, 0.5f);
    const Tensor bias = random_tensor(s, 1, shape.cols);
    const Tensor out = output_tensor(s, shape.rows, shape.cols, in_place ? &x : nullptr);
    const double eps = 1e-5;
    std::vector<Moments> moments;
    for (int64_t r = 0; r < shape.rows; ++r) moments.push_back(row_moments(x, r, eps));
    s.compare<LayerNormArgs>(
        &KernelTable::layer_norm, out,
        [&](const Matrix& m) {
          return LayerNormArgs{m, in_place ? ConstMatrix(m) : ConstMatrix(x.matrix()),
                               vector_or_null(weight, weighted), vector_or_null(bias, biased),
                               static_cast<float>(eps)};
        },
        [&](int64_t r, int64_t c, double) {
          const auto [mean_abs, sigma] = moments[static_cast<size_t>(r)];
          const double w = weighted ? std::fabs(weight.f32(0)[c]) : 1.0;
          const double b = biased ? std::fabs(bias.f32(0)[c]) : 0.0;
          return s.tolerance() * ((std::fabs(x.f32(r)[c]) + mean_abs) / sigma * w + b);
        });
  }
  if (s.begin_case("bad arguments")) {
    const Tensor x = random_tensor(s, 3, 8);
    const Tensor out = output_tensor(s, 3, 8);
    const LayerNormArgs good{out.matrix(), x.matrix(), nullptr, nullptr, 1e-6f};
    for (int kind = 0; kind < 4; ++kind) {
      LayerNormArgs bad = good;
      if (kind == 0) bad.x.cols = 7;
      if (kind == 1) bad.out.rows = 2;
      if (kind == 2) bad.eps = -1.0f;
      if (kind == 3) bad.out.data = nullptr;
      s.expect_rejected(&KernelTable::layer_norm, out, bad);
    }
  }
}

void check_add(Suite& s) {
  int variant = 0;
  for (const Shape& shape : shapes()) {
    const bool repeat = variant % 3 == 0;  // y shorter than x: one row, or half of an even number
    const int64_t y_rows = !repeat || shape.rows == 0 ? shape.rows : shape.rows % 2 == 0 ? shape.rows / 2 : 1;
    const int alias = variant % 4 == 1 ? 1 : variant % 4 == 3 && y_rows == shape.rows ? 2 : 0;
    ++variant;
    if (!s.begin_case("T=%d D=%d Y=%d out_is=%s", static_cast<int>(shape.rows), static_cast<int>(shape.cols),
                      static_cast<int>(y_rows),
                      alias == 0   ? "own"
                      : alias == 1 ? "x"
                                   : "y")) {
      continue;
    }
    const Tensor x = random_tensor(s, shape.rows, shape.cols);
    const Tensor y = random_tensor(s, y_rows, shape.cols, 3.0f);
    const Tensor out = output_tensor(s, shape.rows, shape.cols, alias == 1 ? &x : alias == 2 ? &y : nullptr);
    s.compare<AddArgs>(
        &KernelTable::add, out,
        [&](const Matrix& m) {
          return AddArgs{m, alias == 1 ? ConstMatrix(m) : ConstMatrix(x.matrix()),
                         alias == 2 ? ConstMatrix(m) : ConstMatrix(y.matrix())};
        },
        exact);
  }
  if (s.begin_case("bad arguments")) {
    const Tensor x = random_tensor(s, 6, 8);
    const Tensor out = output_tensor(s, 6, 8);
    const AddArgs good{out.matrix(), x.matrix(), x.matrix()};
    for (int kind = 0; kind < 4; ++kind) {
      AddArgs bad = good;
      if (kind == 0) bad.y.rows = 4;  // not a divisor of 6
      if (kind == 1) bad.y.rows = 0;
      if (kind == 2) bad.y.cols = 7;
      if (kind == 3) bad.x.rows = -1;
      s.expect_rejected(&KernelTable::add, out, bad);
    }
  }
}

void check_gated_act(Suite& s) {
  int variant = 0;
  for (const Shape& shape : shapes()) {
    const auto act = static_cast<Activation>(variant % 5);
    const int alias = variant % 4 == 1 ? 1 : variant % 4 == 3 ? 2 : 0;
    const float scale = variant % 3 == 0 ? 30.0f : 2.0f;  // deep into saturation, and around zero
    ++variant;
    if (!s.begin_case("T=%d D=%d act=%d out_is=%s scale=%g", static_cast<int>(shape.rows),
                      static_cast<int>(shape.cols), static_cast<int>(act),
                      alias == 0   ? "own"
                      : alias == 1 ? "gate"
                                   : "up",
                      static_cast<double>(scale))) {
      continue;
    }
    const Tensor gate = random_tensor(s, shape.rows, shape.cols, scale);
    if (shape.rows > 0 && shape.cols > 8) {
      // Where exp overflows or underflows, and the signed zeros.
      const float special[] = {0.0f, -0.0f, 88.8f, -88.8f, 1e4f, -1e4f, -104.0f, 1e-30f};
      std::copy(std::begin(special), std::end(special), gate.f32(shape.rows - 1));
    }
    const Tensor up = random_tensor(s, shape.rows, shape.cols);
    const Tensor out = output_tensor(s, shape.rows, shape.cols,
                                     alias == 1   ? &gate
                                     : alias == 2 ? &up
                                                  : nullptr);
    s.compare<GatedActArgs>(
        &KernelTable::gated_act, out,
        [&](const Matrix& m) {
          return GatedActArgs{m, alias == 1 ? ConstMatrix(m) : ConstMatrix(gate.matrix()),
                              alias == 2 ? ConstMatrix(m) : ConstMatrix(up.matrix()), act};
        },
        [&](int64_t r, int64_t c, double expected) {
          const double g = std::min(std::fabs(static_cast<double>(gate.f32(r)[c])), 10.0);
          const double tail = 0.25 * g * std::fabs(up.f32(r)[c]);
          return s.tolerance() * (std::fabs(expected) + tail);
        });
  }
  if (s.begin_case("bad arguments")) {
    const Tensor x = random_tensor(s, 3, 8);
    const Tensor out = output_tensor(s, 3, 8);
    const GatedActArgs good{out.matrix(), x.matrix(), x.matrix(), Activation::kSilu};
    for (int kind = 0; kind < 3; ++kind) {
      GatedActArgs bad = good;
      if (kind == 0) bad.up.cols = 7;
      if (kind == 1) bad.gate.rows = 2;
      if (kind == 2) bad.act = static_cast<Activation>(99);
      s.expect_rejected(&KernelTable::gated_act, out, bad);
    }
  }
}

void check_rope(Suite& s) {
  int variant = 0;
  for (const int32_t head_dim :
       {1, 2, 3, 4, 5, 6, 8, 10, 14, 16, 18, 24, 30, 32, 34, 48, 62, 64, 66, 72, 80, 96, 128}) {
    for (const int64_t rows : {1, 3, 0, 33}) {
      const int32_t half = variant % 3 == 0 ? head_dim / 4 : head_dim / 2;  // partial rotation, or all
      const int32_t heads = 1 + variant % 4;
      const auto pairs = variant % 2 == 0 ? RopePairs::kAdjacent : RopePairs::kHalves;
      ++variant;
      if (!s.begin_case("T=%d heads=%d head_dim=%d R=%d pairs=%d", static_cast<int>(rows), heads, head_dim,
                        2 * half, static_cast<int>(pairs))) {
        continue;
      }
      const Tensor x = random_tensor(s, rows, static_cast<int64_t>(heads) * head_dim);
      // Not on the unit circle: YaRN scales its tables.
      const Tensor cos = random_tensor(s, rows, half);
      const Tensor sin = random_tensor(s, rows, half);
      s.compare<RopeArgs>(
          &KernelTable::rope, x,
          [&](const Matrix& m) {
            return RopeArgs{m, head_dim, cos.matrix(), sin.matrix(), pairs};
          },
          [&](int64_t r, int64_t c, double) {
            const int64_t head = c / head_dim;
            const int64_t i = c % head_dim;
            if (i >= 2 * half) return 0.0;
            const bool adjacent = pairs == RopePairs::kAdjacent;
            const int64_t k = adjacent ? i / 2 : i % half;
            const float* base = x.f32(r) + head * head_dim;
            const double u = base[adjacent ? 2 * k : k];
            const double v = base[adjacent ? 2 * k + 1 : k + half];
            const bool second = adjacent ? i % 2 == 1 : i >= half;
            const double cu = second ? sin.f32(r)[k] : cos.f32(r)[k];
            const double cv = second ? cos.f32(r)[k] : sin.f32(r)[k];
            return s.tolerance() * (std::fabs(u * cu) + std::fabs(v * cv));
          });
    }
  }
  if (s.begin_case("bad arguments")) {
    const Tensor x = random_tensor(s, 3, 16);
    const Tensor cos = random_tensor(s, 3, 4);
    const RopeArgs good{x.matrix(), 8, cos.matrix(), cos.matrix(), RopePairs::kHalves};
    for (int kind = 0; kind < 6; ++kind) {
      RopeArgs bad = good;
      if (kind == 0) bad.head_dim = 0;
      if (kind == 1) bad.head_dim = 5;  // does not divide 16
      if (kind == 2) bad.head_dim = 4;  // R = 8 > head_dim
      if (kind == 3) bad.cos.rows = 2;
      if (kind == 4) bad.sin.cols = 3;
      if (kind == 5) bad.pairs = static_cast<RopePairs>(7);
      s.expect_rejected(&KernelTable::rope, x, bad);
    }
  }
}

void check_patchify(Suite& s) {
  struct Case {
    int32_t channels, height, width, patch;
  };
  std::vector<Case> cases = {{3, 0, 10, 4},   {0, 8, 8, 4},    {3, 3, 9, 4},   {1, 7, 7, 1},
                             {3, 28, 42, 14}, {3, 33, 50, 16}, {2, 64, 31, 8}, {3, 56, 56, 14},
                             {3, 64, 64, 32}, {4, 9, 30, 3}};
  for (int32_t p = 1; p <= 33; ++p) cases.push_back({1 + p % 3, p + p / 2, 3 * p + p % 2, p});
  for (const Case& c : cases) {
    if (!s.begin_case("C=%d H=%d W=%d patch=%d", c.channels, c.height, c.width, c.patch)) continue;
    const Tensor pixels = random_tensor(s, 1, static_cast<int64_t>(c.channels) * c.height * c.width);
    const int64_t rows = static_cast<int64_t>(c.height / c.patch) * (c.width / c.patch);
    const Tensor out = output_tensor(s, rows, static_cast<int64_t>(c.channels) * c.patch * c.patch);
    s.compare<PatchifyArgs>(
        &KernelTable::patchify, out,
        [&](const Matrix& m) {
          return PatchifyArgs{m, pixels.f32(0), c.channels, c.height, c.width, c.patch};
        },
        exact);
  }
  if (s.begin_case("bad arguments")) {
    const Tensor pixels = random_tensor(s, 1, 3 * 8 * 8);
    const Tensor out = output_tensor(s, 4, 48);
    const PatchifyArgs good{out.matrix(), pixels.f32(0), 3, 8, 8, 4};
    for (int kind = 0; kind < 6; ++kind) {
      PatchifyArgs bad = good;
      if (kind == 0) bad.patch = 0;
      if (kind == 1) bad.channels = -3;
      if (kind == 2) bad.height = 12;
      if (kind == 3) bad.out.cols = 47;
      if (kind == 4) bad.pixels = nullptr;
      if (kind == 5) bad.patch = 0x7fffffff;
      s.expect_rejected(&KernelTable::patchify, out, bad);
    }
  }
}

}  // namespace trimtok::parity
