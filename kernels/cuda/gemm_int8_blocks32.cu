// Instances of gemm_int8.cuh for the formats with blocks of 32.
#include "kernels/cuda/gemm_int8.cuh"

namespace trimtok::cuda {

Status gemm_int8_blocks32(const ExecContext& ctx, const MatmulArgs& a, const Int8X& x) {
  switch (a.w.dtype) {
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return run_gemm_int8<Dtype::k##name>(ctx, a, x);
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
