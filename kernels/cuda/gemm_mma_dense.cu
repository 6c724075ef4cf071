// Instances of gemm_mma.cuh for F16 and BF16 weights.
#include "kernels/cuda/gemm_mma.cuh"

namespace trimtok::cuda {

Status gemm_mma_dense(const ExecContext& ctx, const MatmulArgs& a, const GemmX& x) {
  const bool direct = a.w.cols % 8 == 0 && rows_aligned(a.w, 16);
  switch (a.w.dtype) {
    case Dtype::kF16:
      return direct ? run_gemm<Dtype::kF16, Feed::kDirect>(ctx, a, x)
                    : run_gemm<Dtype::kF16, Feed::kElements>(ctx, a, x);
    case Dtype::kBF16:
      return direct ? run_gemm<Dtype::kBF16, Feed::kDirect>(ctx, a, x)
                    : run_gemm<Dtype::kBF16, Feed::kElements>(ctx, a, x);
    default:
      return Status::kUnsupported;
  }
}

}  // namespace trimtok::cuda
