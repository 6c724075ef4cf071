// matmul of few rows in int8, compiled for AArch64 with the dot-product extension. Compiled with ISA flags
// (cmake/isa.cmake): nothing but install_neon_dot may leave this file, see tests/check_weak_symbols.py.
#include <arm_neon.h>
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
#include "kernels/cpu/simd/quant_bytes.inl.h"
#include "kernels/cpu/simd/math.inl.h"
#include "kernels/cpu/simd/row_norm.inl.h"
#include "kernels/cpu/simd/finish_row.inl.h"
#include "kernels/cpu/simd/gemv_common.inl.h"
#include "kernels/cpu/simd/round_int8.inl.h"
#include "kernels/cpu/simd/gemv_int8.inl.h"
// clang-format on

Status (*g_below)(const ExecContext&, const MatmulArgs&) = nullptr;  // the body for the rest

Status matmul(const ExecContext& ctx, const MatmulArgs& a) {
  if (a.compute != Compute::kInt8 || a.w.cols == 0) return g_below(ctx, a);
  if (const Status s = check_matmul_args(a); s != Status::kOk) return s;
  if (a.x.rows == 0 || a.w.rows == 0) return Status::kOk;
  if (int8_kernel(a.w.dtype) == nullptr) return Status::kUnsupported;
  return gemv_int8(ctx, a);
}

}  // namespace

void install_neon_dot(KernelTable& table) {
  table.isa = Isa::kNeonDot;
  g_below = table.matmul;
  table.matmul = matmul;
  table.served_by[static_cast<int32_t>(Op::k_matmul)] = Isa::kNeonDot;
}

}  // namespace trimtok
