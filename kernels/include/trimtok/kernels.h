// The kernel seam: a table of functions, one per op, every one with the same shape.
#pragma once

#include "trimtok/args.h"

namespace trimtok {

// What an op may use besides its arguments. Filled by the engine; kernels never allocate or start threads.
struct ExecContext {
  // Runs task(arg, i, thread) for i in [0, n_tasks) on up to n_threads threads and returns when all are
  // done; thread is in [0, n_threads). Tasks are handed out in order, which task runs where is not fixed:
  // a kernel's result must not depend on it.
  using Task = void (*)(void* arg, int64_t i, int32_t thread);
  void (*parallel)(void* pool, int64_t n_tasks, Task task, void* arg) = nullptr;
  void* pool = nullptr;
  int32_t n_threads = 1;

  // 64-byte aligned scratch that stays valid until the op returns; nullptr when memory is short.
  void* (*scratch)(void* owner, size_t bytes) = nullptr;
  void* scratch_owner = nullptr;
};

enum class Isa : int32_t { kRef, kNeon, kAvx2, kAvx512 };
inline constexpr int32_t kNumIsas = 4;
const char* isa_name(Isa isa);  // "ref", "neon", "avx2", "avx512": the spelling of TRIMTOK_CPU_ISA

enum class Op : int32_t {
#define TT_OP(name, Args) k_##name,
#include "trimtok/ops.def"
#undef TT_OP
  kCount
};
const char* op_name(Op op);

// Tables are layered: a table starts as a copy of the one below it and replaces what it does itself.
// served_by records whose body an entry really is, so that tests and users can see who serves an op.
struct KernelTable {
  Isa isa = Isa::kRef;
#define TT_OP(name, Args) Status (*name)(const ExecContext&, const Args&) = nullptr;
#include "trimtok/ops.def"
#undef TT_OP
  Isa served_by[static_cast<int32_t>(Op::kCount)] = {};
};

// nullptr when this build or this machine (CPUID and operating system state) cannot run `isa`.
const KernelTable* cpu_table(Isa isa);
// The highest ISA that this machine runs.
Isa best_cpu_isa();
// nullptr in a build without CUDA; *reason says why either way.
const KernelTable* cuda_table(const char** reason);

// The reference bodies: complete, plain loops, double accumulators, never tuned.
namespace ref {
#define TT_OP(name, Args) Status name(const ExecContext&, const Args&);
#include "trimtok/ops.def"
#undef TT_OP
}  // namespace ref

}  // namespace trimtok
