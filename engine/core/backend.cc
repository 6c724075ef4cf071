#include "engine/core/backend.h"

#include <cstdlib>
#include <cstring>

namespace trimtok {
namespace {

Isa requested_isa() {
  const char* name = std::getenv("TRIMTOK_CPU_ISA");
  if (name == nullptr || *name == '\0') return best_cpu_isa();
  std::string available;
  for (int32_t i = 0; i < kNumIsas; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (cpu_table(isa) == nullptr) continue;
    if (std::strcmp(name, isa_name(isa)) == 0) return isa;
    available += available.empty() ? isa_name(isa) : std::string(", ") + isa_name(isa);
  }
  fail(ErrorCode::kInvalidArgument, "[TRIMTOK_CPU_ISA] is \"%s\", this machine and build offer: %s", name,
       available.c_str());
}

}  // namespace

Backend::Backend(const KernelTable* table, int32_t n_threads, ComputePolicy compute, int32_t n_threads_decode)
    : table_(table), compute_(compute), pool_(n_threads) {
  if (n_threads_decode != 0 && n_threads_decode != n_threads) {
    decode_pool_ = std::make_unique<ThreadPool>(n_threads_decode);
  }
  use(pool_);
  context_.parallel = [](void* pool, int64_t n_tasks, ExecContext::Task task, void* arg) {
    static_cast<ThreadPool*>(pool)->parallel(n_tasks, task, arg);
  };
  context_.scratch_owner = &scratch_;
  context_.scratch = [](void* owner, size_t bytes) -> void* {
    Buffer& scratch = *static_cast<Buffer*>(owner);
    if (scratch.size() < bytes) {
      try {
        scratch = Buffer();  // free first: the peak is the larger one, not both
        scratch = Buffer(bytes);
      } catch (const Error&) {
        return nullptr;
      }
    }
    return scratch.data();
  };
}

std::unique_ptr<Backend> Backend::cpu(int32_t n_threads, ComputePolicy compute, int32_t n_threads_decode) {
  const Isa isa = requested_isa();
  if (!cpu_serves(isa, compute)) {
    fail(ErrorCode::kUnsupported,
         "[compute] \"%s\" has no kernels for the instruction set %s; use \"auto\", \"f32\" or \"int8\"",
         compute_policy_name(compute), isa_name(isa));
  }
  return std::unique_ptr<Backend>(new Backend(cpu_table(isa), n_threads, compute, n_threads_decode));
}

const char* compute_policy_name(ComputePolicy policy) {
  switch (policy) {
    case ComputePolicy::kAuto:
      return "auto";
    case ComputePolicy::kF32:
      return "f32";
    case ComputePolicy::kBf16:
      return "bf16";
    case ComputePolicy::kInt8:
      return "int8";
  }
  return "unknown";
}

ComputePolicy compute_policy_from_name(const char* name) {
  for (const ComputePolicy policy :
       {ComputePolicy::kAuto, ComputePolicy::kF32, ComputePolicy::kBf16, ComputePolicy::kInt8}) {
    if (std::strcmp(name, compute_policy_name(policy)) == 0) return policy;
  }
  fail(ErrorCode::kInvalidArgument, "[compute] is \"%s\", must be one of auto, f32, bf16, int8", name);
}

}  // namespace trimtok
