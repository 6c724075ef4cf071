// attention: checks, and the choice of kernel that attention.cuh states.
#include "kernels/cuda/attention.cuh"

namespace trimtok::cuda {

Status attention(const ExecContext& ctx, const AttentionArgs& a) {
  if (const Status s = check_attention_shapes(a); s != Status::kOk) return s;
  if (a.q.rows == 0) return Status::kOk;
  if (a.head_dim > kMaxHeadDim) return gpu::fail(Status::kUnsupported, "attention: head_dim is above 512");
  const bool too_wide = a.head_dim > (gpu::device().sm < 80 ? 128 : 256);
  return a.q.rows <= kFewRows || too_wide ? attention_few(ctx, a) : attention_many(ctx, a);
}

}  // namespace trimtok::cuda
