// Instances of gemm_int8.cuh for the formats with blocks of 256.
#include "kernels/cuda/gemm_int8.cuh"

namespace trimtok::cuda {

Status gemm_int8_blocks256(const ExecContext& ctx, const MatmulArgs& a, const Int8X& x) {
  switch (a.w.dtype) {
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return run_gemm_int8<Dtype::k##name>(ctx, a, x);
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
