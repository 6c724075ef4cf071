// The bodies of the CUDA table, as served.def names them; and how they report a failure.
#pragma once

#include "trimtok/kernels.h"

namespace trimtok::cuda {

#define TT_OP(name, Args) Status name(const ExecContext&, const Args&);
#include "trimtok/ops.def"
#undef TT_OP

namespace gpu {
Status fail(Status status, const char* text);
}  // namespace gpu

}  // namespace trimtok::cuda
