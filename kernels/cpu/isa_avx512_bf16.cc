// matmul in bf16, compiled for AVX-512 with AVX512_BF16. Compiled with ISA flags (cmake/isa.cmake): nothing
// but install_avx512_bf16 may leave this file, see tests/check_weak_symbols.py.
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
// The order matters:
// clang-format off
#include "kernels/cpu/simd/vec.h"
#include "kernels/cpu/simd/quants.inl.h"
#include "kernels/cpu/simd/math.inl.h"
#include "kernels/cpu/simd/row_norm.inl.h"
#include "kernels/cpu/simd/finish_row.inl.h"
#include "kernels/cpu/simd/gemm.inl.h"
#include "kernels/cpu/simd/bf16_words.inl.h"
#include "kernels/cpu/simd/gemm_bf16.inl.h"
// clang-format on

Status (*g_below)(const ExecContext&, const MatmulArgs&) = nullptr;  // the body for other precisions

Status matmul(const ExecContext& ctx, const MatmulArgs& a) {
  if (a.compute != Compute::kBf16) return g_below(ctx, a);
  if (const Status s = check_matmul_args(a); s != Status::kOk) return s;
  if (a.x.rows == 0 || a.w.rows == 0) return Status::kOk;
  if (decode_fn(a.w.dtype) == nullptr) return Status::kUnsupported;
  if (a.x.cols > 0) return gemm(ctx, a, bf16_gemm_kernel(a.w.dtype));
  MatmulArgs nothing_to_round = a;
  nothing_to_round.compute = Compute::kF32;
  return g_below(ctx, nothing_to_round);
}

}  // namespace

void install_avx512_bf16(KernelTable& table) {
  table.isa = Isa::kAvx512Bf16;
  g_below = table.matmul;
  table.matmul = matmul;
  table.served_by[static_cast<int32_t>(Op::k_matmul)] = Isa::kAvx512Bf16;
}

}  // namespace trimtok
