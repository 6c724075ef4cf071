// Reference matmul: a weight row becomes f32, then one double dot product per output.
#include <algorithm>

#include "kernels/cpu/ref/common.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::ref {
namespace {

constexpr int64_t kBlock = 32;

bool is_block_format(Dtype dtype) {
  return dtype_info(dtype)->block_elems > 1;
}

// Compute::kInt8 of args.h. out may be x, here and below.
void round_to_int8(const float* x, int64_t n, float* out) {
  for (int64_t b = 0; b < n; b += kBlock) {
    float largest = 0.0f;
    bool finite = true;
    for (int64_t i = b; i < b + kBlock; ++i) {
      largest = std::max(largest, std::fabs(x[i]));
      finite = finite && std::isfinite(x[i]);
    }
    const float scale = finite ? largest / 16256.0f : NAN;
    const float inverse = 16256.0f / largest;
    const bool zero = finite && largest < 0x1p-100f;
    for (int64_t i = b; i < b + kBlock; ++i) {
      out[i] = zero ? 0.0f : finite ? std::nearbyint(x[i] * inverse) * scale : scale;
    }
  }
}

void round_row(Compute compute, const float* x, int64_t n, float* out) {
  if (compute == Compute::kInt8) {
    round_to_int8(x, n, out);
    return;
  }
  for (int64_t i = 0; i < n; ++i)
    out[i] = compute == Compute::kBf16 ? f32_from_bf16(bf16_from_f32(x[i])) : x[i];
}

}  // namespace

Status matmul(const ExecContext& ctx, const MatmulArgs& a) {
  if (const Status s = check_matmul_args(a); s != Status::kOk) return s;
  if (a.compute == Compute::kInt8 && !is_block_format(a.w.dtype)) return Status::kUnsupported;
  const int64_t n_outputs = a.w.rows;
  const int64_t k = a.w.cols;
  if (a.x.rows == 0 || n_outputs == 0) return Status::kOk;
  const auto n_rows = static_cast<size_t>(ctx.n_threads + a.x.rows);
  auto* rows = static_cast<float*>(get_scratch(ctx, n_rows * static_cast<size_t>(k + 1) * sizeof(float)));
  if (rows == nullptr) return Status::kOutOfMemory;
  float* rounded = rows + ctx.n_threads * k;
  for (int64_t t = 0; t < a.x.rows; ++t) {
    norm_row(a.norm, row<float>(a.x, t), k, rounded + t * k);
    round_row(a.compute, rounded + t * k, k, rounded + t * k);
  }

  for_each(ctx, n_outputs, [&](int64_t n, int32_t thread) {
    float* w = rows + thread * k;
    dequantize_row(a.w.dtype, row<void>(a.w, n), k, w);
    if (a.compute == Compute::kBf16) round_row(a.compute, w, k, w);
    for (int64_t t = 0; t < a.x.rows; ++t) {
      const float* x = rounded + t * k;
      double sum = a.bias == nullptr ? 0.0 : a.bias[n];
      for (int64_t i = 0; i < k; ++i) sum += static_cast<double>(x[i]) * w[i];
      double y = activate(a.act, sum);
      if (a.times.data != nullptr) y *= row<float>(a.times, t)[n];
      if (a.scale != nullptr) y *= a.scale[n];
      if (a.residual.data != nullptr) y += row<float>(a.residual, t)[n];
      row<float>(a.out, t)[n] = static_cast<float>(y);
    }
  });
  return Status::kOk;
}

}  // namespace trimtok::ref
