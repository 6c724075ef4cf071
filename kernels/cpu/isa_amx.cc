// matmul of many rows on AMX tiles, in bf16 and in int8, compiled for AVX-512 with AVX512_BF16 and AMX.
// Compiled with ISA flags (cmake/isa.cmake): nothing but install_amx may leave this file, see
// tests/check_weak_symbols.py.
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
#include "kernels/cpu/simd/tiles.h"
#include "kernels/cpu/simd/quants.inl.h"
#include "kernels/cpu/simd/quant_bytes.inl.h"
#include "kernels/cpu/simd/math.inl.h"
#include "kernels/cpu/simd/row_norm.inl.h"
#include "kernels/cpu/simd/finish_row.inl.h"
#include "kernels/cpu/simd/round_int8.inl.h"
#include "kernels/cpu/simd/gemm.inl.h"
#include "kernels/cpu/simd/bf16_words.inl.h"
#include "kernels/cpu/simd/int8_words.inl.h"
#include "kernels/cpu/simd/gemm_amx.inl.h"
// clang-format on

constexpr int64_t kFewRows = 9;  // up to here dot products from the stored blocks are quicker

Status (*g_below)(const ExecContext&, const MatmulArgs&) = nullptr;  // the body for the rest

Status matmul(const ExecContext& ctx, const MatmulArgs& a) {
  const bool int8 = a.compute == Compute::kInt8 && a.x.rows > kFewRows;
  if (a.x.cols == 0 || !(int8 || a.compute == Compute::kBf16)) return g_below(ctx, a);
  if (const Status s = check_matmul_args(a); s != Status::kOk) return s;
  if (a.x.rows == 0 || a.w.rows == 0) return Status::kOk;
  const GemmKernel kernel = int8 ? int8_tiles_kernel(a.w.dtype) : bf16_tiles_kernel(a.w.dtype);
  if (int8 ? kernel.multiply == nullptr : kernel.decode == nullptr) return Status::kUnsupported;
  return gemm(ctx, a, kernel);
}

}  // namespace

void install_amx(KernelTable& table) {
  table.isa = Isa::kAmx;
  g_below = table.matmul;
  table.matmul = matmul;
  table.served_by[static_cast<int32_t>(Op::k_matmul)] = Isa::kAmx;
}

}  // namespace trimtok
