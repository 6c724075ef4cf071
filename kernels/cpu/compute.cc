// The precision policy: which rounding serves which weight on which instruction set. docs/performance.md has
// the table with the errors that it costs.
#include "kernels/cpu/isa_tables.h"
#include "trimtok/kernels.h"

namespace trimtok {
namespace {

// Up to here a matmul waits for its weights: bytes count, and exact products are free.
constexpr int64_t kFewRows = 9;

bool is_block_format(Dtype dtype) {
  const DtypeInfo* info = dtype_info(dtype);
  return info != nullptr && info->block_elems > 1;
}

bool has_wide_int8(Isa isa) {
  return isa == Isa::kNeonI8mm || isa >= Isa::kAvxVnni;
}

bool has_quick_bf16(Isa isa) {
  return isa == Isa::kAmx || (isa == Isa::kAvx512Bf16 && bf16_beats_f32());
}

Compute automatic(Isa isa, Dtype weight, int64_t rows) {
  if (isa == Isa::kRef) return Compute::kF32;
  const bool few = rows <= kFewRows;
  if (!few && has_quick_bf16(isa)) return Compute::kBf16;
  return is_block_format(weight) && (few || has_wide_int8(isa)) ? Compute::kInt8 : Compute::kF32;
}

// Up to here the CUDA table has matvec, which computes in f32 (kVecRows in kernels/cuda/matmul.cuh).
constexpr int64_t kFewRowsOfCuda = 8;

}  // namespace

const char* compute_name(Compute compute) {
  switch (compute) {
    case Compute::kF32:
      return "f32";
    case Compute::kBf16:
      return "bf16";
    case Compute::kInt8:
      return "int8";
  }
  return "unknown";
}

bool cpu_serves(Isa isa, ComputePolicy policy) {
  return policy != ComputePolicy::kBf16 || isa == Isa::kRef || isa == Isa::kAvx512Bf16 || isa == Isa::kAmx;
}

Compute cpu_compute(Isa isa, ComputePolicy policy, Dtype weight, int64_t rows) {
  if (weight == Dtype::kF32) return Compute::kF32;
  switch (policy) {
    case ComputePolicy::kAuto:
      return automatic(isa, weight, rows);
    case ComputePolicy::kF32:
      break;
    case ComputePolicy::kBf16:
      return rows > kFewRows ? Compute::kBf16 : Compute::kF32;
    case ComputePolicy::kInt8:
      return is_block_format(weight) ? Compute::kInt8 : Compute::kF32;
  }
  return Compute::kF32;
}

bool cuda_serves(ComputePolicy policy) {
  return policy != ComputePolicy::kBf16;
}

Compute cuda_compute(ComputePolicy policy, Dtype weight, int64_t rows) {
  const bool int8 = policy == ComputePolicy::kInt8 && is_block_format(weight) && rows > kFewRowsOfCuda;
  return int8 ? Compute::kInt8 : Compute::kF32;
}

}  // namespace trimtok
