// Shared by the reference bodies only. Plain and slow on purpose: this is what every other table is
// compared with, so it computes in double and rounds once.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/check.h"
#include "trimtok/kernels.h"

namespace trimtok::ref {

template <typename T>
T* row(const Matrix& m, int64_t r) {
  return reinterpret_cast<T*>(static_cast<char*>(m.data) + r * m.stride);
}

template <typename T>
const T* row(const ConstMatrix& m, int64_t r) {
  return reinterpret_cast<const T*>(static_cast<const char*>(m.data) + r * m.stride);
}

// f(i, thread) for i in [0, n).
template <typename F>
void for_each(const ExecContext& ctx, int64_t n, F f) {
  run_tasks(
      ctx, n, [](void* arg, int64_t i, int32_t thread) { (*static_cast<F*>(arg))(i, thread); }, &f);
}

// One row of `cols` elements (a whole number of blocks) of any kWeight dtype as f32. Every format's
// products are exact in f32 and at most one sum rounds, so the order of the operations does not matter.
void dequantize_row(Dtype dtype, const void* src, int64_t cols, float* out);

// One row as rms_norm or layer_norm makes it: in double, rounded once. kNone copies.
void norm_row(const RowNorm& norm, const float* x, int64_t n, float* out);

// The heads of a row of `cols` elements as the op rope turns them, by the angles of row t; in place.
void rotate_row(const Rotation& rotation, int64_t t, int64_t head_dim, int64_t cols, float* x);

inline double activate(Activation act, double x) {
  switch (act) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf:
      return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
    case Activation::kQuickGelu:
      return x / (1.0 + std::exp(-1.702 * x));
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
  }
  return NAN;  // checked before: only a new, unhandled Activation comes here
}

}  // namespace trimtok::ref
