// Cases of matmul: every weight dtype over shapes around register blocks, cache blocks and thread shares.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "harness.h"
#include "tolerance.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::parity {
namespace {

constexpr Dtype kF32 = Dtype::kF32;

struct Shape {
  int64_t t;
  int64_t n;
  int64_t k;
};

// K in units of the dtype's block for the block formats, so that the list serves all of them.
std::vector<Shape> shapes(int64_t block) {
  std::vector<Shape> list = {{0, 5, block}, {3, 0, block}, {2, 3, 0}};
  if (block == 1) {
    for (int64_t k = 1; k <= 35; ++k) list.push_back({1 + k % 3, 1 + k % 5, k});
    for (const int64_t k : {47, 63, 64, 65, 127, 128, 129, 255, 257}) list.push_back({3, 4, k});
  } else {
    for (int64_t k = 1; k <= (block == 32 ? 13 : 5); ++k) list.push_back({1 + k % 3, 1 + k % 5, k * block});
  }
  const int64_t k = block == 1 ? 70 : block == 32 ? 96 : 256;
  for (int64_t n = 1; n <= 35; ++n) list.push_back({1, n, k});
  for (int64_t t = 2; t <= 35; ++t) list.push_back({t, 1 + t * 5 % 19, k});
  for (const int64_t n : {47, 48, 49, 63, 64, 65, 127, 129}) list.push_back({n % 2 == 0 ? 6 : 13, n, k});
  for (const int64_t t : {47, 48, 49, 63, 64, 65, 96, 127, 129, 257}) list.push_back({t, 17, k});
  // Widths of real models and depths beyond any cache block, few outputs to keep the reference quick.
  list.push_back({1, 40, block == 256 ? 2048 : 2080});
  list.push_back({5, 24, block == 256 ? 4096 : 896});
  list.push_back({1, 9, 11008});
  list.push_back({37, 33, block == 1 ? 1153 : block == 32 ? 1120 : 1024});
  list.push_back({130, 70, block == 1 ? 588 : block == 32 ? 576 : 512});
  list.push_back({20, 257, k});
  list.push_back({1030, 5, k});
  list.push_back({600, 2, 11008});
  return list;
}

// What is asked of matmul besides the product.
struct Fusion {
  RowNorm::Kind norm = RowNorm::Kind::kNone;
  bool norm_weight = false;
  bool norm_bias = false;
  int times = 0;  // 1: own memory, 2: in place
  bool scale = false;
};

constexpr Fusion kFusions[] = {
    {RowNorm::Kind::kRms, true, false, 0, false},   {RowNorm::Kind::kRms, false, false, 1, false},
    {RowNorm::Kind::kLayer, true, true, 0, true},   {RowNorm::Kind::kLayer, false, true, 2, true},
    {RowNorm::Kind::kLayer, true, false, 1, false}, {RowNorm::Kind::kNone, false, false, 2, false},
    {RowNorm::Kind::kNone, false, false, 0, true},  {RowNorm::Kind::kRms, true, false, 2, true},
};

// The rows that meet the weights, before Compute rounds them, and what each element may be off by.
struct Rows {
  Tensor x;
  std::vector<std::vector<double>> error;
};

// A norm errs by what rms_norm and layer_norm may err by: tolerance.h and rows.cc say of what.
Rows normed_rows(const Tensor& x, const RowNorm& norm) {
  Rows rows{x.clone(), {}};
  rows.error.assign(static_cast<size_t>(x.rows()), std::vector<double>(static_cast<size_t>(x.cols())));
  if (norm.kind == RowNorm::Kind::kNone) return rows;
  if (norm.kind == RowNorm::Kind::kRms) {
    (void)ref::rms_norm(ExecContext{}, {rows.x.matrix(), x.matrix(), norm.weight, norm.eps});
  } else {
    (void)ref::layer_norm(ExecContext{}, {rows.x.matrix(), x.matrix(), norm.weight, norm.bias, norm.eps});
  }
  const auto n = static_cast<double>(x.cols());
  for (int64_t t = 0; t < x.rows(); ++t) {
    double sum = 0.0;
    double sum_abs = 0.0;
    double squares = 0.0;
    for (int64_t k = 0; k < x.cols(); ++k) {
      sum += x.f32(t)[k];
      sum_abs += std::fabs(x.f32(t)[k]);
      squares += static_cast<double>(x.f32(t)[k]) * x.f32(t)[k];
    }
    const double sigma = std::sqrt(squares / n - sum / n * (sum / n) + norm.eps);
    for (int64_t k = 0; k < x.cols(); ++k) {
      double magnitude = std::fabs(rows.x.f32(t)[k]);
      if (norm.kind == RowNorm::Kind::kLayer) {
        const double weight = norm.weight == nullptr ? 1.0 : std::fabs(norm.weight[k]);
        magnitude = (std::fabs(x.f32(t)[k]) + sum_abs / n) / sigma * weight +
                    (norm.bias == nullptr ? 0.0 : std::fabs(norm.bias[k]));
      }
      rows.error[static_cast<size_t>(t)][static_cast<size_t>(k)] =
          tolerance(Op::k_layer_norm) * magnitude;  // the same as of rms_norm
    }
  }
  return rows;
}

// What becomes of the errors when the row is rounded. Nothing where an element and all that it may be round
// to the same; a step of bf16 or int8 where the border between two steps lies within the error, so that only
// the elements that are in doubt are let off, each for the width of the step.
void round_errors(Compute compute, const float* x, std::vector<double>& error) {
  const auto n = static_cast<int64_t>(error.size());
  if (compute == Compute::kBf16) {
    for (size_t k = 0; k < error.size(); ++k) {
      const auto rounded = [&](double v) { return f32_from_bf16(bf16_from_f32(static_cast<float>(v))); };
      if (error[k] > 0.0) error[k] = rounded(x[k] + error[k]) - rounded(x[k] - error[k]);
    }
  }
  for (int64_t b = 0; compute == Compute::kInt8 && b < n; b += 32) {
    double largest = 0.0;
    double doubt = 0.0;  // about the largest, which sets the scale of the block
    for (int64_t i = b; i < b + 32; ++i) {
      largest = std::max<double>(largest, std::fabs(x[i]));
      doubt = std::max(doubt, error[static_cast<size_t>(i)]);
    }
    if (doubt == 0.0) continue;
    const double step = largest / 16256.0;
    for (int64_t i = b; i < b + 32; ++i) {
      double& e = error[static_cast<size_t>(i)];
      const double of_scale = std::fabs(x[i]) * doubt / largest;
      const double reach = e + of_scale + 0x1p-22 * std::fabs(x[i]);  // the division and the product in f32
      const double steps = std::nearbyint((x[i] + reach) / step) - std::nearbyint((x[i] - reach) / step);
      e = steps * step + of_scale;
    }
  }
}

// What errors of one output are relative to.
struct Magnitude {
  // |scale times| (sum |x| max|w| + |bias|) + |residual|: of an f32 evaluation. The maximum is over the 32
  // weights that share a scale: a body may sum codes and offset apart, and then errs by the size of the
  // block's weights even where one of them happens to be zero.
  double sum;
  double root;     // |scale times| sqrt(sum (x w)^2): of an x that is rounded element by element
  double weights;  // |scale times sum x (f16(w) - w)|: what is known to go wrong where weights become f16
  double norm;     // |scale times| sum error |w|: what a norm in f32 may make of the product
  double factor;   // |scale times|
};

std::vector<Magnitude> magnitudes(const Rows& rows, const Tensor& w, Compute compute, const float* bias,
                                  const Tensor* times, const float* scale, const Tensor* residual) {
  const Tensor& x = rows.x;
  std::vector<std::vector<double>> errors = rows.error;
  for (int64_t t = 0; t < x.rows(); ++t) round_errors(compute, x.f32(t), errors[static_cast<size_t>(t)]);
  const int64_t group = dtype_info(w.dtype())->block_elems == 1 ? 1 : 32;
  std::vector<Magnitude> out(static_cast<size_t>(x.rows() * w.rows()));
  for (int64_t n = 0; n < w.rows(); ++n) {
    std::vector<float> weights = w.values(n);
    const std::vector<float> exact_weights = weights;
    std::vector<float> f16_weights;
    for (const float v : weights) f16_weights.push_back(f32_from_f16(f16_from_f32(v)));
    for (size_t k = 0; k < weights.size(); k += static_cast<size_t>(group)) {
      float largest = 0.0f;
      for (size_t i = k; i < k + static_cast<size_t>(group); ++i)
        largest = std::max(largest, std::fabs(weights[i]));
      std::fill_n(weights.begin() + static_cast<int64_t>(k), group, largest);
    }
    for (int64_t t = 0; t < x.rows(); ++t) {
      double factor = scale == nullptr ? 1.0 : std::fabs(scale[n]);
      if (times != nullptr) factor *= std::fabs(times->f32(t)[n]);
      double sum = bias == nullptr ? 0.0 : std::fabs(bias[n]);
      double squares = 0.0;
      double rounded = 0.0;
      double norm = 0.0;
      for (int64_t k = 0; k < x.cols(); ++k) {
        sum += std::fabs(x.f32(t)[k] * weights[static_cast<size_t>(k)]);
        const double weight = exact_weights[static_cast<size_t>(k)];
        squares += x.f32(t)[k] * weight * x.f32(t)[k] * weight;
        rounded += x.f32(t)[k] * (f16_weights[static_cast<size_t>(k)] - weight);
        norm += errors[static_cast<size_t>(t)][static_cast<size_t>(k)] * std::fabs(weight);
      }
      sum *= factor;
      if (residual != nullptr) sum += std::fabs(residual->f32(t)[n]);
      out[static_cast<size_t>(t * w.rows() + n)] = {sum, factor * std::sqrt(squares),
                                                    factor * std::fabs(rounded), factor * norm, factor};
    }
  }
  return out;
}

// No activation is steeper.
constexpr double kSteepest = 1.13;

// What tensor cores may err beyond an f32 evaluation (kernels/cuda/matmul.cuh says which calls they take).
// Each rounding of x errs by up to u and by 0.41 u rms, independently, so a sum errs by some six times that
// of root at most; u = 2^-11 for f16, 2^-17 for x as two bf16. Weights of formats that neither f16 nor bf16
// holds are rounded to f16: the error is known. Sums: every step of 8 columns may cut off 2^-23 of what has
// been summed so far, always towards zero; that is half of |x| |w| on the way.
double tensor_core_error(const Suite& s, Dtype dtype, Compute compute, int64_t rows, int64_t depth,
                         const Magnitude& m) {
  if (!on_device(s.table()) || rows <= 8 || dtype == kF32) return 0.0;
  if (compute == Compute::kInt8) return 0.0;  // x is rounded by the reference too, and integers are exact
  const bool bf16 = dtype == Dtype::kBF16 || dtype == Dtype::kMXFP4;
  const double sums = 0.5 * 0x1p-23 * static_cast<double>((depth + 7) / 8) * m.sum;
  const double inputs = 6.0 * 0.41 * (bf16 ? 0x1p-17 : 0x1p-11) * m.root;
  return kSteepest * (sums + inputs + (bf16 ? 0.0 : m.weights));
}

void fill_input(Tensor& x, Rng& rng, int kind) {
  x.fill_normal(rng);
  for (int64_t t = 0; t < x.rows(); ++t) {
    for (int64_t k = 0; k < x.cols(); ++k) {
      if (kind == 1) x.f32(t)[k] = std::fabs(x.f32(t)[k]);         // one sign: errors add up
      if (kind == 2 && rng.below(64) == 0) x.f32(t)[k] *= 100.0f;  // outliers, as real activations have
    }
  }
}

// `w_layout` says where the weights lie; absent: anywhere.
void check_shape(Suite& s, Dtype dtype, Compute compute, const Shape& shape, int variant,
                 std::optional<Layout> w_layout, const Fusion& fusion = {}) {
  const bool biased = variant % 3 != 0;
  const auto act = static_cast<Activation>(variant % 4 == 0 ? 1 + variant / 4 % 4 : 0);
  int residual_kind = variant % 5 == 1 ? 1 : variant % 5 == 3 ? 2 : 0;  // 1: own memory, 2: in place
  if (fusion.times == 2) residual_kind = residual_kind > 0 ? 1 : 0;
  const int input_kind = variant % 7 % 3;
  const char* const places[] = {"none", "own", "out"};
  if (!s.begin_case(
          "%s %s T=%d N=%d K=%d%s bias=%d act=%d residual=%s input=%d norm=%d%s%s times=%s scale=%d",
          dtype_info(dtype)->name, compute_name(compute), static_cast<int>(shape.t),
          static_cast<int>(shape.n), static_cast<int>(shape.k), w_layout ? " packed" : "", biased,
          static_cast<int>(act), places[residual_kind], input_kind, static_cast<int>(fusion.norm),
          fusion.norm_weight ? "w" : "", fusion.norm_bias ? "b" : "", places[fusion.times], fusion.scale)) {
    return;
  }
  const bool normed = fusion.norm != RowNorm::Kind::kNone;
  Tensor x(kF32, shape.t, shape.k, s.next_layout());
  fill_input(x, s.rng(), input_kind);
  for (int64_t t = 0; normed && t < shape.t; ++t) {  // rows of different sizes, far from zero
    for (int64_t k = 0; k < shape.k; ++k) x.f32(t)[k] = static_cast<float>(1 + t % 3) * (x.f32(t)[k] + 1.5f);
  }
  Tensor w(dtype, shape.n, shape.k, w_layout ? *w_layout : s.next_layout());
  w.fill_weight(s.rng());
  const auto vector = [&](int64_t n, bool present, float mean) {
    Tensor v(kF32, 1, present ? n : 0, s.next_layout());
    v.fill_normal(s.rng(), 1.0f, mean);
    return v;
  };
  const auto data = [](const Tensor& v) { return v.cols() == 0 ? nullptr : v.f32(0); };
  const Tensor bias = vector(shape.n, biased, 0.0f);
  const Tensor scale = vector(shape.n, fusion.scale, 0.0f);
  const Tensor norm_weight = vector(shape.k, fusion.norm_weight, 0.5f);
  const Tensor norm_bias = vector(shape.k, fusion.norm_bias, 0.0f);
  const RowNorm norm{fusion.norm, data(norm_weight), data(norm_bias), normed ? 0.0625f : 0.0f};
  Tensor residual(kF32, shape.t, shape.n, s.next_layout());
  residual.fill_normal(s.rng(), 3.0f);
  Tensor times(kF32, shape.t, shape.n, s.next_layout());
  times.fill_normal(s.rng(), 2.0f);
  const Tensor own_out(kF32, shape.t, shape.n, s.next_layout());
  const Tensor& out = residual_kind == 2 ? residual : fusion.times == 2 ? times : own_out;
  const auto magnitude =
      magnitudes(normed_rows(x, norm), w, compute, data(bias), fusion.times == 0 ? nullptr : &times,
                 data(scale), residual_kind == 0 ? nullptr : &residual);
  const double allowance = s.tolerance() * (1.0 + 0.5 * std::sqrt(static_cast<double>(shape.k)));
  // bf16 units take tiny products for zeros.
  const double flushed = compute == Compute::kBf16 ? static_cast<double>(shape.k) * 0x1p-126 : 0.0;
  s.compare<MatmulArgs>(
      &KernelTable::matmul, out,
      [&](const Matrix& m) {
        MatmulArgs args;
        args.out = m;
        args.x = x.matrix();
        args.w = w.matrix();
        args.bias = data(bias);
        args.act = act;
        args.compute = compute;
        args.norm = norm;
        args.scale = data(scale);
        if (residual_kind == 1) args.residual = residual.matrix();
        if (residual_kind == 2) args.residual = m;
        if (fusion.times == 1) args.times = times.matrix();
        if (fusion.times == 2) args.times = m;
        return args;
      },
      [&](int64_t t, int64_t n, double) {
        const Magnitude& m = magnitude[static_cast<size_t>(t * shape.n + n)];
        return allowance * m.sum + flushed * m.factor + kSteepest * m.norm +
               tensor_core_error(s, dtype, compute, shape.t, shape.k, m);
      });
}

// Every fusion with few rows of some dtypes and with many rows of the others, on K beyond one block of it.
void check_fusions(Suite& s, Dtype dtype, Compute compute) {
  const int32_t block = dtype_info(dtype)->block_elems;
  const int64_t k = block == 1 ? 333 : block == 32 ? 320 : 512;
  const Shape few[] = {{1, 35, k}, {3, 19, k}, {5, 40, k}, {2, 7, block == 1 ? 21 : block}};
  const Shape many[] = {{13, 33, k}, {37, 50, k}, {70, 19, k}, {20, 35, block == 1 ? 45 : block}};
  int variant = static_cast<int>(dtype) + static_cast<int>(compute);
  for (int i = 0; i < static_cast<int>(std::size(kFusions)); ++i, ++variant) {
    const bool is_few = (variant / 4 + i) % 2 == 0;
    check_shape(s, dtype, compute, is_few ? few[i / 2] : many[i / 2], variant, {}, kFusions[i]);
  }
}

// Rows longer than what a device brings to shared memory at once: a norm is of all of them. --quick leaves
// none of them out.
void check_long_norms(Suite& s) {
  int variant = 0;
  for (const Dtype dtype : {Dtype::kQ8_0, Dtype::kF16}) {
    for (const Fusion& fusion : {kFusions[0], kFusions[2]}) {
      for (const Shape& shape : {Shape{1, 5, 8448}, Shape{5, 3, 2304}}) {
        check_shape(s, dtype, Compute::kF32, shape, variant++, Layout{}, fusion);
      }
    }
  }
}

// Both sides round their operands alike, so what may differ is what may differ in f32; but for tensor cores.
void check_dtype(Suite& s, Dtype dtype, Compute compute) {
  const int32_t block = dtype_info(dtype)->block_elems;
  int variant = 0;
  for (const Shape& shape : shapes(block)) check_shape(s, dtype, compute, shape, variant++, {});
  check_fusions(s, dtype, compute);
  if (!on_device(s.table())) return;
  // Packed weights, as the engine has them, reach the wide loads and the tensor cores; every tile, its edges,
  // and slices of K beyond the stages that are under way at once.
  const int64_t k = block == 1 ? 72 : block;
  for (const Shape& shape : {Shape{9, 17, k},
                             {33, 65, k},
                             {64, 64, 2 * k},
                             {65, 130, 3 * k},
                             {70, 40, 7 * k},
                             {129, 6085, k},
                             {1, 33, k},
                             {1, 70, 9 * k},
                             {6, 40, 5 * k}}) {
    check_shape(s, dtype, compute, shape, variant++, Layout{});
  }
}

// A NaN in x makes its whole row of outputs NaN and no other, whatever hides behind scales and sums.
void check_nan(Suite& s, Dtype dtype, Compute compute) {
  for (const int64_t rows : {3, 40}) {
    if (!s.begin_case("%s %s T=%d, a NaN in x", dtype_info(dtype)->name, compute_name(compute),
                      static_cast<int>(rows))) {
      continue;
    }
    Tensor x(kF32, rows, 512, s.next_layout());
    x.fill_normal(s.rng());
    x.f32(rows / 2)[300] = std::numeric_limits<float>::quiet_NaN();
    Tensor w(dtype, 9, 512, s.next_layout());
    w.fill_weight(s.rng());
    const Tensor out(kF32, rows, 9, s.next_layout());
    const auto magnitude = magnitudes(normed_rows(x, {}), w, compute, nullptr, nullptr, nullptr, nullptr);
    s.compare<MatmulArgs>(
        &KernelTable::matmul, out,
        [&](const Matrix& m) {
          MatmulArgs args;
          args.out = m;
          args.x = x.matrix();
          args.w = w.matrix();
          args.compute = compute;
          return args;
        },
        [&](int64_t t, int64_t n, double) {
          const Magnitude& m = magnitude[static_cast<size_t>(t * 9 + n)];
          return 13.0 * s.tolerance() * m.sum + tensor_core_error(s, dtype, compute, rows, 512, m);
        },
        true);
  }
}

void check_all(Suite& s, Dtype dtype) {
  for (const Compute compute : {Compute::kF32, Compute::kBf16, Compute::kInt8}) {
    if (compute == Compute::kBf16 && on_device(s.table())) continue;
    if (compute == Compute::kInt8 && dtype_info(dtype)->block_elems == 1) continue;
    if (compute == Compute::kBf16 && !cpu_serves(s.table().isa, ComputePolicy::kBf16)) continue;
    check_dtype(s, dtype, compute);
    check_nan(s, dtype, compute);
  }
}

void check_rejections(Suite& s) {
  Tensor x(kF32, 3, 64);
  x.fill_normal(s.rng());
  Tensor w(Dtype::kQ4_0, 5, 64);
  w.fill_weight(s.rng());
  const Tensor out(kF32, 3, 5);
  MatmulArgs good;
  good.out = out.matrix();
  good.x = x.matrix();
  good.w = w.matrix();
  const Tensor vector(kF32, 1, 65);
  const auto* odd = reinterpret_cast<const float*>(vector.row(0) + 2);
  for (int kind = 0; kind < 21; ++kind) {
    MatmulArgs bad = good;
    if (kind > 10) bad.norm = {RowNorm::Kind::kLayer, vector.f32(0), vector.f32(0), 1e-6f};
    if (kind == 0) bad.w.cols = 32;
    if (kind == 1) bad.w.rows = 4;
    if (kind == 2) bad.x.rows = 2;
    if (kind == 3) bad.w.dtype = Dtype::kQ8_K;
    if (kind == 4) bad.w.dtype = Dtype::kIQ3_S;
    if (kind == 5) bad.act = static_cast<Activation>(-1);
    if (kind == 6) bad.w.stride = 35;
    if (kind == 7) bad.residual = x.matrix();
    if (kind == 8) bad.w.data = nullptr;
    if (kind == 10) bad.compute = static_cast<Compute>(3);
    if (kind == 9) bad.x.cols = bad.w.cols = 63;
    if (kind == 11) bad.norm.kind = static_cast<RowNorm::Kind>(3);
    if (kind == 12) bad.norm.kind = static_cast<RowNorm::Kind>(-1);
    if (kind == 13) bad.norm.kind = RowNorm::Kind::kRms;  // has no bias
    if (kind == 14) bad.norm.eps = -1.0f;
    if (kind == 15) bad.norm.eps = NAN;
    if (kind == 16) bad.norm.weight = odd;
    if (kind == 17) bad.norm.bias = odd;
    if (kind == 18) bad.scale = odd;
    if (kind == 19) bad.times = x.matrix();
    if (kind == 20) bad.times = w.matrix();
    s.expect_rejected(&KernelTable::matmul, out, bad);
  }
}

}  // namespace

void check_matmul(Suite& s) {
  if (on_device(s.table())) check_long_norms(s);
#define TT_DTYPE(name, id, block_elems, block_bytes, use) \
  if (DtypeUse::use == DtypeUse::kWeight) check_all(s, Dtype::k##name);
#include "trimtok/dtypes.def"
#undef TT_DTYPE
  if (s.begin_case("bad arguments")) check_rejections(s);
}

}  // namespace trimtok::parity
