// matmul: checks, and the choice of kernel that matmul.cuh states.
#include "kernels/cuda/matmul.cuh"

namespace trimtok::cuda {

Status matmul(const ExecContext& ctx, const MatmulArgs& args) {
  if (const Status s = check_matmul_shapes(args); s != Status::kOk) return s;
  MatmulArgs a = args;
  // Kernels look at the norm's vectors without asking for its kind; a row of no elements has no norm.
  if (a.norm.kind == RowNorm::Kind::kNone || a.x.cols == 0) a.norm = {};
  const bool int8 = a.compute == Compute::kInt8;
  if (a.compute == Compute::kBf16) return Status::kUnsupported;
  if (int8 && dtype_info(a.w.dtype)->block_elems == 1) return Status::kUnsupported;
  if (a.out.rows == 0 || a.out.cols == 0) return Status::kOk;
  if (a.x.cols == 0) return matvec(ctx, a);
  if (int8) return gemm_int8(ctx, a);
  if (a.x.rows <= kVecRows) return matvec(ctx, a);
  if (a.w.dtype == Dtype::kF32) return gemm_f32(ctx, a);
  if (gpu::device().sm < 80 && a.w.dtype == Dtype::kBF16) return gemm_f32(ctx, a);
  if (gpu::device().sm < 80 && a.w.dtype == Dtype::kMXFP4) return matvec(ctx, a);
  const bool dense = a.w.dtype == Dtype::kF16 || a.w.dtype == Dtype::kBF16;
  return dense || blocks_aligned(a.w) ? gemm_mma(ctx, a) : matvec(ctx, a);
}

}  // namespace trimtok::cuda
