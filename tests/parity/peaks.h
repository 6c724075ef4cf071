// What this machine can do at best, measured by the process that times the kernels: shared machines drift,
// so that a share of a limit means something only beside the limit of the same minute.
#pragma once

#include "harness.h"

namespace trimtok::parity {

// Per second, all threads together. 0: not known for this instruction set.
struct Limits {
  double f32 = 0.0;   // floating-point operations of multiply-adds between registers
  double bf16 = 0.0;  // same, of the dot-product instruction with bf16 operands
  double int8 = 0.0;  // integer operations of dot products with 8-bit operands
  double read = 0.0;  // bytes read from memory that no cache holds
};

// Seconds by the clock that the figures of so many threads are taken with: CPU time for one thread, so that
// the time in which other programs had the CPU does not count. 0: by the wall clock.
double clock_seconds(int32_t threads);

Limits measure_limits(const KernelTable& table, Pool& pool, double seconds);

}  // namespace trimtok::parity
