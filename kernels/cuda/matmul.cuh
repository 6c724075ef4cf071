// What the matmul kernels share: which of them takes a call, and what happens to a finished dot product.
//
// The choice (matmul.cu), by shape and storage:
//   T <= kVecRows, or w's blocks not aligned     matvec        f32 FMA from the stored blocks
//   w F32                                        gemm_f32      f32 FMA, tiles in shared memory
//   w BF16 or MXFP4                              gemm_mma      bf16 tensor cores, x as the sum of two bf16
//   every other w                                gemm_mma      f16 tensor cores, x scaled by row, then f16
// Compute::kInt8 (block formats only): gemm_int8, x as two int8 digits on int8 tensor cores; for few rows and
// unaligned blocks matvec on the rounded x.
// Where tensor cores do not take bf16 (sm_75), BF16 goes to gemm_f32 and MXFP4 to matvec: slower, more exact.
//
// Normalised rows are written nowhere as f32. The kernels that prepare x for tensor cores normalise it there,
// matvec on the way to shared memory, and gemm_f32 on the way to its tiles, with means and scales that a
// launch before it leaves in scratch.
#pragma once

#include "kernels/cuda/dequant.cuh"
#include "kernels/cuda/norm.cuh"

namespace trimtok::cuda {

// Rows of x up to which reading the stored weights once per four rows beats a tile of 32.
constexpr int64_t kVecRows = 8;

Status matvec(const ExecContext& ctx, const MatmulArgs& a);
Status matvec_dense(const ExecContext& ctx, const MatmulArgs& a);
Status gemm_f32(const ExecContext& ctx, const MatmulArgs& a);
Status gemm_int8(const ExecContext& ctx, const MatmulArgs& a);
Status gemm_mma(const ExecContext& ctx, const MatmulArgs& a);

// out[t][n] from norm(x[t]) . w[n]: bias, activation, times, scale, residual. Reads what it needs of out
// before it writes: times or the residual may lie there.
__device__ __forceinline__ void finish_output(const MatmulArgs& a, int64_t t, int64_t n, float sum) {
  if (a.bias != nullptr) sum += a.bias[n];
  float y = activate(a.act, sum);
  if (a.times.data != nullptr) y *= row_of<float>(a.times, t)[n];
  if (a.scale != nullptr) y *= a.scale[n];
  if (a.residual.data != nullptr) y += row_of<float>(a.residual, t)[n];
  row_of<float>(a.out, t)[n] = y;
}

}  // namespace trimtok::cuda
