// matmul in int8, compiled for AVX2 with AVX-VNNI: VNNI on 256 bits, where there is no AVX-512. Compiled with
// ISA flags (cmake/isa.cmake): nothing but install_avx_vnni may leave this file, see
// tests/check_weak_symbols.py. Compiled a second time, for the parity program alone, with the instruction
// that AVX-512 has for the same: install_avx_vnni_evex.
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/check.h"
#include "kernels/cpu/isa_tables.h"
#include "trimtok/kernels.h"
#include "trimtok/quant_blocks.h"

#define TT_AVX_VNNI

namespace trimtok {
namespace {
// The order matters:
// clang-format off
#include "kernels/cpu/simd/vec.h"
#include "kernels/cpu/simd/quants.inl.h"
#include "kernels/cpu/simd/quant_bytes.inl.h"
#include "kernels/cpu/simd/math.inl.h"
#include "kernels/cpu/simd/row_norm.inl.h"
#include "kernels/cpu/simd/finish_row.inl.h"
#include "kernels/cpu/simd/gemv_common.inl.h"
#include "kernels/cpu/simd/round_int8.inl.h"
#include "kernels/cpu/simd/gemv_int8.inl.h"
#include "kernels/cpu/simd/gemm.inl.h"
#include "kernels/cpu/simd/int8_words.inl.h"
#include "kernels/cpu/simd/gemm_int8.inl.h"
// clang-format on

constexpr int64_t kFewRows = 12;  // up to here dot products from the stored blocks are quicker

Status (*g_below)(const ExecContext&, const MatmulArgs&) = nullptr;  // the body for the rest

Status matmul(const ExecContext& ctx, const MatmulArgs& a) {
  if (a.compute != Compute::kInt8 || a.w.cols == 0) return g_below(ctx, a);
  if (const Status s = check_matmul_args(a); s != Status::kOk) return s;
  if (a.x.rows == 0 || a.w.rows == 0) return Status::kOk;
  if (int8_kernel(a.w.dtype) == nullptr) return Status::kUnsupported;
  return a.x.rows > kFewRows ? gemm(ctx, a, int8_gemm_kernel(a.w.dtype)) : gemv_int8(ctx, a);
}

void install(KernelTable& table) {
  table.isa = Isa::kAvxVnni;
  g_below = table.matmul;
  table.matmul = matmul;
  table.served_by[static_cast<int32_t>(Op::k_matmul)] = Isa::kAvxVnni;
}

}  // namespace

#if defined(__AVXVNNI__)
void install_avx_vnni(KernelTable& table) {
  install(table);
}
#else
void install_avx_vnni_evex(KernelTable& table) {
  install(table);
}
#endif

}  // namespace trimtok
