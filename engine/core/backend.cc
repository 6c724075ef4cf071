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

Backend::Backend(const KernelTable* table, int32_t n_threads) : table_(table), pool_(n_threads) {
  context_.n_threads = n_threads;
  context_.pool = &pool_;
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

std::unique_ptr<Backend> Backend::cpu(int32_t n_threads) {
  return std::unique_ptr<Backend>(new Backend(cpu_table(requested_isa()), n_threads));
}

}  // namespace trimtok
