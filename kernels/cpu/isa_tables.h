// Between dispatch.cc and the ISA files only.
#pragma once

#include "trimtok/kernels.h"

namespace trimtok {

// Each replaces the entries of simd/served.def with its own bodies and records itself in served_by.
void install_avx2(KernelTable& table);
void install_avx512(KernelTable& table);
void install_neon(KernelTable& table);

}  // namespace trimtok
