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

  // 64-byte aligned scratch that stays valid until the op returns; nullptr when memory is short. An op asks
  // at most once. On a device: device memory, 256-byte aligned, valid for the work that the op has put on
  // `stream`; the next op on that stream may be given the same memory.
  void* (*scratch)(void* owner, size_t bytes) = nullptr;
  void* scratch_owner = nullptr;

  // On a device: the cudaStream_t that an op puts its work on; nullptr is the default stream. Ops return
  // before the work is done and never wait for it. A failure to launch is the op's Status, with the text in
  // cuda::last_error(); a failure while a kernel runs shows up in a later op or in cuda::synchronize().
  // `parallel` and `n_threads` are not used there.
  void* stream = nullptr;
};

// Whose body an op runs: of the CPU in order of preference (kAvx512 includes VNNI); kCuda: compiled by nvcc;
// kCudaHost: the same sources compiled as C++ and run on the host by kernels/cuda_host; kNone: the table has
// no body and says so when called.
enum class Isa : int32_t {
  kRef,
  kNeon,
  kNeonDot,
  kNeonI8mm,
  kAvx2,
  kAvxVnni,
  kAvx512,
  kAvx512Bf16,
  kAmx,
  kCuda,
  kCudaHost,
  kNone
};
inline constexpr int32_t kNumIsas = 9;  // those of the CPU, the first in Isa
// "ref", "neon", "neon_dot", "neon_i8mm", "avx2", "avx_vnni", "avx512", "avx512_bf16", "amx" (the spelling of
// TRIMTOK_CPU_ISA), "cuda", "cuda_host", "none".
const char* isa_name(Isa isa);

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

const char* compute_name(Compute compute);  // "f32", "bf16", "int8"

// What a user asks of matmul: kAuto picks per instruction set, weight format and number of rows by the table
// in docs/performance.md, the others insist. F32 weights are always computed in f32.
enum class ComputePolicy : int32_t { kAuto, kF32, kBf16, kInt8 };
// The rounding by which a table of the CPU meets a policy. kBf16 falls on every weight but F32, kInt8 on
// block formats only: F16 and BF16 weights then stay f32. Few rows wait for memory, so that kBf16 leaves them
// in f32.
Compute cpu_compute(Isa isa, ComputePolicy policy, Dtype weight, int64_t rows);
// Whether the table of `isa` has bodies for a policy at all.
bool cpu_serves(Isa isa, ComputePolicy policy);
// The same of the CUDA table. kAuto and kF32 are its usual way (cuda/matmul.cuh); kInt8 leaves few rows in
// f32.
Compute cuda_compute(ComputePolicy policy, Dtype weight, int64_t rows);
bool cuda_serves(ComputePolicy policy);

// nullptr when this build or this machine (CPUID and operating system state) cannot run `isa`. The first call
// asks Linux to let this process use AMX tiles, where there are any.
const KernelTable* cpu_table(Isa isa);
// The highest ISA that this machine runs.
Isa best_cpu_isa();
// nullptr in a build without CUDA; *reason says why either way. An op of ops.def without a CUDA body answers
// kUnimplemented and is served_by kNone: there is no detour over the CPU.
const KernelTable* cuda_table(const char** reason);

// The reference bodies: complete, plain loops, double accumulators, never tuned.
namespace ref {
#define TT_OP(name, Args) Status name(const ExecContext&, const Args&);
#include "trimtok/ops.def"
#undef TT_OP
}  // namespace ref

}  // namespace trimtok
