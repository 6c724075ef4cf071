// cuda_table(): the bodies of served.def; every other op of ops.def is an error that names it.
#include "kernels/cuda/ops.h"
#include "trimtok/device.h"
#include "trimtok/kernels.h"

namespace trimtok {
namespace {

#if defined(TT_CUDA_HOST)
constexpr Isa kIsa = Isa::kCudaHost;
constexpr char kReason[] = "CUDA kernels executed on the host (built with -DTRIMTOK_CUDA_HOST=ON)";
#else
constexpr Isa kIsa = Isa::kCuda;
constexpr char kReason[] = "CUDA kernels compiled by nvcc";
#endif

template <typename Args, Op kOp>
Status unserved(const ExecContext&, const Args&) {
  char text[96] = "the CUDA table has no body for the op ";
  size_t n = 0;
  while (text[n] != '\0') ++n;
  for (const char* name = op_name(kOp); *name != '\0' && n + 1 < sizeof(text); ++name) text[n++] = *name;
  text[n] = '\0';
  return cuda::gpu::fail(Status::kUnimplemented, text);
}

KernelTable make_table() {
  KernelTable table;
  table.isa = kIsa;
#define TT_OP(name, Args)                    \
  table.name = unserved<Args, Op::k_##name>; \
  table.served_by[static_cast<int32_t>(Op::k_##name)] = Isa::kNone;
#include "trimtok/ops.def"
#undef TT_OP
#define TT_SERVE(name)     \
  table.name = cuda::name; \
  table.served_by[static_cast<int32_t>(Op::k_##name)] = kIsa;
#include "kernels/cuda/served.def"
#undef TT_SERVE
  return table;
}

}  // namespace

const KernelTable* cuda_table(const char** reason) {
  static const KernelTable kTable = make_table();
  if (reason != nullptr) *reason = kReason;
  return &kTable;
}

}  // namespace trimtok
