// cuda_table() of a build without CUDA: says so, so that no caller needs an #ifdef.
#include "trimtok/kernels.h"

namespace trimtok {

const KernelTable* cuda_table(const char** reason) {
  if (reason != nullptr) *reason = "this build has no CUDA kernels (configure with -DTRIMTOK_CUDA=ON)";
  return nullptr;
}

}  // namespace trimtok
