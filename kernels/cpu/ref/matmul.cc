// Reference matmul: a weight row becomes f32, then one double dot product per output.
#include "kernels/cpu/ref/common.h"

namespace trimtok::ref {

Status matmul(const ExecContext& ctx, const MatmulArgs& a) {
  if (const Status s = check_matmul_args(a); s != Status::kOk) return s;
  const int64_t n_outputs = a.w.rows;
  const int64_t k = a.w.cols;
  if (a.x.rows == 0 || n_outputs == 0) return Status::kOk;
  const auto threads = static_cast<size_t>(ctx.n_threads);
  auto* rows = static_cast<float*>(get_scratch(ctx, threads * static_cast<size_t>(k + 1) * sizeof(float)));
  if (rows == nullptr) return Status::kOutOfMemory;

  for_each(ctx, n_outputs, [&](int64_t n, int32_t thread) {
    float* w = rows + thread * k;
    dequantize_row(a.w.dtype, row<void>(a.w, n), k, w);
    for (int64_t t = 0; t < a.x.rows; ++t) {
      const auto* x = row<float>(a.x, t);
      double sum = a.bias == nullptr ? 0.0 : a.bias[n];
      for (int64_t i = 0; i < k; ++i) sum += static_cast<double>(x[i]) * w[i];
      double y = activate(a.act, sum);
      if (a.residual.data != nullptr) y += row<float>(a.residual, t)[n];
      row<float>(a.out, t)[n] = static_cast<float>(y);
    }
  });
  return Status::kOk;
}

}  // namespace trimtok::ref
