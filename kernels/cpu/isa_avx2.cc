// The SIMD bodies compiled for AVX2 + FMA + F16C. Compiled with ISA flags (cmake/isa.cmake): nothing but
// install_avx2 may leave this file, see tests/check_weak_symbols.py.
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/check.h"
#include "kernels/cpu/isa_tables.h"
#include "trimtok/kernels.h"
#include "trimtok/quant_blocks.h"

namespace trimtok {
namespace {
#include "kernels/cpu/simd/bodies.inl.h"
}  // namespace

void install_avx2(KernelTable& table) {
  table.isa = Isa::kAvx2;
#define TT_SERVE(op) \
  table.op = op;     \
  table.served_by[static_cast<int32_t>(Op::k_##op)] = Isa::kAvx2;
#include "kernels/cpu/simd/served.def"
#undef TT_SERVE
}

}  // namespace trimtok
