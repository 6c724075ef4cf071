// Instances of gemm_mma.cuh for the formats with blocks of 32.
#include "kernels/cuda/gemm_mma.cuh"

namespace trimtok::cuda {

Status gemm_mma_blocks32(const ExecContext& ctx, const MatmulArgs& a, const GemmX& x) {
  switch (a.w.dtype) {
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return run_gemm<Dtype::k##name, Feed::kGroups>(ctx, a, x);
    TT_CASE(Q4_0)
    TT_CASE(Q4_1)
    TT_CASE(Q5_0)
    TT_CASE(Q5_1)
    TT_CASE(Q8_0)
    TT_CASE(IQ4_NL)
    TT_CASE(MXFP4)
#undef TT_CASE
    default:
      return Status::kUnsupported;
  }
}

}  // namespace trimtok::cuda
