// matmul of many rows in int8, compiled for AArch64 with the extension for matrix products of bytes. Compiled
// with ISA flags (cmake/isa.cmake): nothing but install_neon_i8mm may leave this file, see
// tests/check_weak_symbols.py.
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
#include "kernels/cpu/simd/round_int8.inl.h"
#include "kernels/cpu/simd/gemm.inl.h"
#include "kernels/cpu/simd/int8_words.inl.h"
#include "kernels/cpu/simd/gemm_i8mm.inl.h"
// clang-format on

constexpr int64_t kFewRows = 12;  // up to here dot products from the stored blocks are quicker

Status (*g_below)(const ExecContext&, const MatmulArgs&) = nullptr;  // the body for the rest

Status matmul(const ExecContext& ctx, const MatmulArgs& a) {
  if (a.compute != Compute::kInt8 || a.w.cols == 0 || a.x.rows <= kFewRows) return g_below(ctx, a);
  if (const Status s = check_matmul_args(a); s != Status::kOk) return s;
  if (a.w.rows == 0) return Status::kOk;
  const GemmKernel kernel = i8mm_kernel(a.w.dtype);
  return kernel.multiply == nullptr ? Status::kUnsupported : gemm(ctx, a, kernel);
}

}  // namespace

void install_neon_i8mm(KernelTable& table) {
  table.isa = Isa::kNeonI8mm;
  g_below = table.matmul;
  table.matmul = matmul;
  table.served_by[static_cast<int32_t>(Op::k_matmul)] = Isa::kNeonI8mm;
}

}  // namespace trimtok
