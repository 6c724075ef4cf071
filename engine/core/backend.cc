#include "engine/core/backend.h"

#include <cstdlib>
#include <cstring>

#include "engine/core/cuda_memory.h"
#include "engine/core/isolated.h"

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

const KernelTable* cpu_table_for(ComputePolicy compute) {
  const Isa isa = requested_isa();
  if (!cpu_serves(isa, compute)) {
    fail(ErrorCode::kUnsupported,
         "[compute] \"%s\" has no kernels for the instruction set %s; use \"auto\", \"f32\" or \"int8\"",
         compute_policy_name(compute), isa_name(isa));
  }
  return cpu_table(isa);
}

// From the first element of a matrix to its last.
size_t span_bytes(const ConstMatrix& m) {
  if (m.rows == 0 || m.cols == 0) return 0;
  return static_cast<size_t>((m.rows - 1) * m.stride + row_bytes(m.dtype, m.cols));
}

}  // namespace

Backend::Backend(const KernelTable* table, int32_t n_threads, MemoryPtr memory, ComputePolicy compute,
                 int32_t n_threads_decode)
    : table_(table), compute_(compute), memory_(std::move(memory)), pool_(n_threads), arena_(memory_) {
  if (n_threads_decode != 0 && n_threads_decode != n_threads) {
    decode_pool_ = std::make_unique<ThreadPool>(n_threads_decode);
  }
  use(pool_);
  context_.parallel = [](void* pool, int64_t n_tasks, ExecContext::Task task, void* arg) {
    static_cast<ThreadPool*>(pool)->parallel(n_tasks, task, arg);
  };
  context_.scratch = take_scratch;
  context_.scratch_owner = this;
}

void* Backend::take_scratch(void* self, size_t bytes) {
  auto& backend = *static_cast<Backend*>(self);
  if (backend.scratch_.size() < bytes) {
    try {
      backend.scratch_ = Buffer();  // free first: the peak is the larger one, not both
      backend.scratch_ = backend.buffer(bytes);
    } catch (const Error&) {
      return nullptr;
    }
  }
  return backend.scratch_.data();
}

std::unique_ptr<Backend> Backend::cpu(int32_t n_threads, ComputePolicy compute, int32_t n_threads_decode) {
  return std::unique_ptr<Backend>(
      new Backend(cpu_table_for(compute), n_threads, nullptr, compute, n_threads_decode));
}

std::unique_ptr<Backend> Backend::cuda(int32_t n_threads, std::string& reason, ComputePolicy compute) {
  const std::shared_ptr<CudaMemory> memory = cuda_memory(reason);
  if (memory == nullptr) return nullptr;
  std::unique_ptr<Backend> backend = over(cuda_table(nullptr), n_threads, memory, compute);
  backend->context_.stream = memory->stream();
  return backend;
}

std::unique_ptr<Backend> Backend::over(const KernelTable* table, int32_t n_threads, MemoryPtr memory,
                                       ComputePolicy compute) {
  return std::unique_ptr<Backend>(new Backend(table, n_threads, std::move(memory), compute, 0));
}

std::unique_ptr<Backend> Backend::isolated(int32_t n_threads, size_t limit_bytes, ComputePolicy compute) {
  const MemoryPtr memory = isolated_memory(limit_bytes);
  std::unique_ptr<Backend> backend = over(cpu_table_for(compute), n_threads, memory, compute);
  backend->watch_ = isolated_watch(memory);
  return backend;
}

const void* Backend::upload_bytes(const void* host, size_t bytes) {
  if (on_host()) return host;
  if (step_ != nullptr) {
    if (const void* p = step_->upload(host, bytes); p != nullptr) return p;
  }
  void* p = arena_.array<std::byte>(static_cast<int64_t>(bytes));
  if (bytes > 0) memory_->write(p, host, bytes);
  return p;
}

void Backend::run(const OpCall& call) {
  const auto run_args = [&](const auto& args) {
    if constexpr (!std::is_same_v<std::decay_t<decltype(args)>, std::monostate>)
      run(args, call.where.c_str());
  };
  std::visit(run_args, call.args);
}

ConstMatrix Backend::upload(const ConstMatrix& host) {
  if (on_host() || host.data == nullptr) return host;
  return {upload_bytes(host.data, span_bytes(host)), host.dtype, host.rows, host.cols, host.stride};
}

ConstMatrix Backend::upload(const ConstMatrix& host, Buffer& storage) const {
  if (on_host() || host.data == nullptr) return host;
  const size_t bytes = span_bytes(host);
  storage = buffer(bytes);
  storage.write(host.data, bytes);
  return {storage.data(), host.dtype, host.rows, host.cols, host.stride};
}

void Backend::fetch(const Matrix& host, const ConstMatrix& from) {
  if (from.data == host.data) return;
  settle();
  const int64_t row = row_bytes(host.dtype, host.cols);
  if (row == host.stride && row == from.stride) {
    const size_t bytes = span_bytes(host);
    if (bytes > 0) memory_->read(host.data, from.data, bytes);
    return;
  }
  for (int64_t t = 0; t < host.rows; ++t) {
    memory_->read(row_range(host, t, 1).data, row_range(from, t, 1).data, static_cast<size_t>(row));
  }
}

ConstMatrix Backend::read(const ConstMatrix& m, Buffer& storage) const {
  if (on_host() || m.data == nullptr) return m;
  // Strides stay as they are: what lies between rows of a part is memory of the same matrix.
  const size_t bytes = span_bytes(m);
  if (storage.size() < bytes) storage = Buffer(bytes);
  if (bytes > 0) memory_->read(storage.data(), m.data, bytes);
  return {storage.data(), m.dtype, m.rows, m.cols, m.stride};
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
