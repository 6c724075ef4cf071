// Instances of gemm_mma.cuh for the formats with blocks of 256.
#include "kernels/cuda/gemm_mma.cuh"

namespace trimtok::cuda {

Status gemm_mma_blocks256(const ExecContext& ctx, const MatmulArgs& a, const GemmX& x) {
  switch (a.w.dtype) {
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return run_gemm<Dtype::k##name, Feed::kGroups>(ctx, a, x);
    TT_CASE(Q2_K)
    TT_CASE(Q3_K)
    TT_CASE(Q4_K)
    TT_CASE(Q5_K)
    TT_CASE(Q6_K)
    TT_CASE(IQ4_XS)
#undef TT_CASE
    default:
      return Status::kUnsupported;
  }
}

}  // namespace trimtok::cuda
