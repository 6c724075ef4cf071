// matmul: checks, and the choice of kernel that matmul.cuh states.
//
// There is no int8 path. It would double the tensor cores' rate for Q8_0 and Q4 formats and round x to 2^-8
// of the largest of 32 elements, eight times as coarsely as f16; whether that pays is for a GPU to say.
#include "kernels/cuda/matmul.cuh"

namespace trimtok::cuda {

Status matmul(const ExecContext& ctx, const MatmulArgs& a) {
  if (const Status s = check_matmul_shapes(a); s != Status::kOk) return s;
  if (a.out.rows == 0 || a.out.cols == 0) return Status::kOk;
  if (a.x.rows <= kVecRows || a.x.cols == 0) return matvec(ctx, a);
  if (a.w.dtype == Dtype::kF32) return gemm_f32(ctx, a);
  if (gpu::device().sm < 80 && a.w.dtype == Dtype::kBF16) return gemm_f32(ctx, a);
  if (gpu::device().sm < 80 && a.w.dtype == Dtype::kMXFP4) return matvec(ctx, a);
  const bool dense = a.w.dtype == Dtype::kF16 || a.w.dtype == Dtype::kBF16;
  return dense || blocks_aligned(a.w) ? gemm_mma(ctx, a) : matvec(ctx, a);
}

}  // namespace trimtok::cuda
