// matmul: x . w^T whatever w's storage. Few rows go to gemv*.inl.h, many to gemm*.inl.h.

// The order matters:
// clang-format off
#include "kernels/cpu/simd/finish_row.inl.h"
#include "kernels/cpu/simd/gemv_common.inl.h"
#include "kernels/cpu/simd/gemv.inl.h"
#include "kernels/cpu/simd/round_int8.inl.h"
#include "kernels/cpu/simd/gemv_int8.inl.h"
#include "kernels/cpu/simd/gemm.inl.h"
#include "kernels/cpu/simd/gemm_f32.inl.h"
#if defined(__AVX512F__)
#include "kernels/cpu/simd/int8_words.inl.h"
#include "kernels/cpu/simd/gemm_int8.inl.h"
#endif
// clang-format on

// Above this many rows of x, unpacking the weights once into panels beats reading them by dot products.
constexpr int64_t kGemvRows = kLanes == 16 ? 9 : 12;

Status matmul_int8(const ExecContext& ctx, const MatmulArgs& a) {
#if defined(__AVX512F__)
  if (a.x.rows > kGemvRows) return gemm(ctx, a, int8_gemm_kernel(a.w.dtype));
#endif
  return gemv_int8(ctx, a);
}

Status matmul(const ExecContext& ctx, const MatmulArgs& a) {
  if (const Status s = check_matmul_args(a); s != Status::kOk) return s;
  if (a.x.rows == 0 || a.w.rows == 0) return Status::kOk;
  if (decode_fn(a.w.dtype) == nullptr) return Status::kUnsupported;
  if (a.compute == Compute::kBf16) return Status::kUnsupported;
  if (a.compute == Compute::kInt8 && int8_kernel(a.w.dtype) == nullptr) return Status::kUnsupported;
  if (a.x.cols == 0) return gemv(ctx, a);
  if (a.compute == Compute::kInt8) return matmul_int8(ctx, a);
  return a.x.rows <= kGemvRows ? gemv(ctx, a) : gemm(ctx, a, f32_gemm_kernel(a.w.dtype));
}
