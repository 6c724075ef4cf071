// matmul: x . w^T in f32 whatever w's storage. Few rows go to gemv.inl.h, many to gemm.inl.h.

// out[t][n .. n + count] from the dot products: bias, activation, residual. `sums` may be read in whole
// vectors.
void finish_row(const MatmulArgs& a, int64_t t, int64_t n, const float* sums, int64_t count) {
  float* out = f32_row(a.out, t) + n;
  const float* bias = a.bias == nullptr ? nullptr : a.bias + n;
  const float* residual = a.residual.data == nullptr ? nullptr : f32_row(a.residual, t) + n;
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t m = imin(kLanes, count - i);
    Vf v = vload(sums + i);
    if (bias != nullptr) v = vadd(v, m == kLanes ? vload(bias + i) : vload_n(bias + i, m));
    v = vactivate(v, a.act);
    if (residual != nullptr) v = vadd(v, m == kLanes ? vload(residual + i) : vload_n(residual + i, m));
    if (m == kLanes) {
      vstore(out + i, v);
    } else {
      vstore_n(out + i, v, m);
    }
  }
}

#include "kernels/cpu/simd/gemm.inl.h"
#include "kernels/cpu/simd/gemv.inl.h"

// Above this many rows of x, decoding the weights once into f32 panels beats reading them by dot products.
constexpr int64_t kGemvRows = kLanes == 16 ? 9 : 12;

Status matmul(const ExecContext& ctx, const MatmulArgs& a) {
  if (const Status s = check_matmul_args(a); s != Status::kOk) return s;
  if (a.x.rows == 0 || a.w.rows == 0) return Status::kOk;
  if (decode_fn(a.w.dtype) == nullptr) return Status::kUnsupported;
  return a.x.rows <= kGemvRows || a.x.cols == 0 ? gemv(ctx, a) : gemm(ctx, a);
}
