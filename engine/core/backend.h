// A device as the engine sees it: an op table, the context its ops run in, an arena for activations.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/core/step_graph.h"
#include "engine/core/threads.h"
#include "trimtok/kernels.h"

namespace trimtok {

// "auto", "f32", "bf16", "int8"; throws Error(kInvalidArgument) for another name.
ComputePolicy compute_policy_from_name(const char* name);
const char* compute_policy_name(ComputePolicy policy);

// Looks on at every op of a backend, for tests and measurements. `args` is the op's argument struct.
class OpWatch {
 public:
  virtual ~OpWatch() = default;
  virtual void before(Op op, const void* args) = 0;
  virtual void after(Op op) noexcept = 0;
};

// What the host and a device exchange goes through upload(), output() with fetch(), and read(). On the CPU
// all of them are the caller's own memory: nothing is copied. Matrices of ops lie in memory of the backend
// (its arena, buffer(), weights bound for it), never in memory of the host.
class Backend {
 public:
  // The ISA is the machine's best, or TRIMTOK_CPU_ISA when set (a name of isa_name): asking for one that the
  // machine or the build lacks is an error, as is a policy that the ISA has no bodies for. No other
  // environment variable changes results.
  // n_threads_decode: threads while an answer is written, which waits for memory; 0: n_threads.
  static std::unique_ptr<Backend> cpu(int32_t n_threads, ComputePolicy compute = ComputePolicy::kF32,
                                      int32_t n_threads_decode = 0);
  // The first CUDA device. null, with the reason, when there is none that this build can use. compute:
  // one that cuda_serves().
  static std::unique_ptr<Backend> cuda(int32_t n_threads, std::string& reason,
                                       ComputePolicy compute = ComputePolicy::kF32);
  // Any table over any memory; on a device the pool is for work of the host.
  static std::unique_ptr<Backend> over(const KernelTable* table, int32_t n_threads, MemoryPtr memory,
                                       ComputePolicy compute = ComputePolicy::kF32);
  // The CPU's ops on memory that the host may not touch; see isolated.h. For tests.
  static std::unique_ptr<Backend> isolated(int32_t n_threads, size_t limit_bytes,
                                           ComputePolicy compute = ComputePolicy::kF32);

  // Decoding steps run on threads of their own number while one of these lives.
  class DecodeThreads {
   public:
    explicit DecodeThreads(Backend& backend) : backend_(backend) { backend_.use(*backend_.decode_pool()); }
    ~DecodeThreads() { backend_.use(backend_.pool_); }
    DecodeThreads(const DecodeThreads&) = delete;
    DecodeThreads& operator=(const DecodeThreads&) = delete;

   private:
    Backend& backend_;
  };

  const KernelTable& ops() const noexcept { return *table_; }
  const ExecContext& context() const noexcept { return context_; }
  Arena& arena() noexcept { return arena_; }
  int32_t n_threads() const noexcept { return pool_.n_threads(); }
  int32_t n_threads_decode() const noexcept { return decode_pool_ ? decode_pool_->n_threads() : n_threads(); }
  ComputePolicy compute() const noexcept { return compute_; }
  // The rounding that matmul gives `rows` rows of x and weights of this dtype.
  Compute compute_for(Dtype weight, int64_t rows) const {
    const bool cuda = table_->isa == Isa::kCuda || table_->isa == Isa::kCudaHost;
    return cuda ? cuda_compute(compute_, weight, rows) : cpu_compute(table_->isa, compute_, weight, rows);
  }
  std::string device() const { return memory_ == nullptr ? "cpu" : memory_->name(); }
  std::string device_name() const { return memory_ == nullptr ? "cpu" : memory_->description(); }
  const MemoryPtr& memory() const noexcept { return memory_; }  // null: the host's
  bool on_host() const noexcept { return memory_ == nullptr; }
  Buffer buffer(size_t bytes) const { return Buffer(bytes, memory_); }
  // Bytes of op scratch and activations held now.
  size_t scratch_bytes() const noexcept { return arena_.capacity() + scratch_.size(); }

  // Host memory for ops to read: small per-call arrays (ids, intervals, rope tables). Valid as long as the
  // caller keeps `host` and does not release the Mark that it was taken under.
  template <typename T>
  const T* upload(std::span<const T> host) {
    return static_cast<const T*>(upload_bytes(host.data(), host.size_bytes()));
  }
  ConstMatrix upload(const ConstMatrix& host);
  // The same in memory that `storage` keeps: for callers that do not hold the backend for themselves.
  ConstMatrix upload(const ConstMatrix& host, Buffer& storage) const;

  // Memory for ops to write what the host wants to have in `host`; fetch() brings it there and waits for it.
  template <typename T>
  T* output(std::span<T> host) {
    return on_host() ? host.data() : arena_.array<T>(static_cast<int64_t>(host.size()));
  }
  // As output(), but ops find there what `host` holds now.
  template <typename T>
  T* update(std::span<T> host) {
    return const_cast<T*>(upload(std::span<const T>(host)));
  }
  template <typename T>
  void fetch(std::span<T> host, const std::type_identity_t<T>* from) {
    if (from == host.data() || host.empty()) return;
    settle();
    memory_->read(host.data(), from, host.size_bytes());
  }
  Matrix output(const Matrix& host) {
    return on_host() ? host : arena_.matrix(host.rows, host.cols, host.dtype);
  }
  void fetch(const Matrix& host, const ConstMatrix& from);

  // `m` for the host to read: on the CPU m itself, else a copy that `storage` keeps. For callers that do not
  // hold the backend for themselves: inside a step, settle() first.
  ConstMatrix read(const ConstMatrix& m, Buffer& storage) const;

  // Runs the ops that a step has put off so far (see StepGraph).
  void settle() {
    if (step_ != nullptr) step_->settle();
  }
  // Decoding steps since the backend was made.
  StepCounts& steps() noexcept { return steps_; }

  // Calls an op of the table and turns a bad status into an Error naming the op and `where`. The compute of a
  // matmul's arguments is replaced by what the policy says.
#define TT_OP(name, Args)                                                          \
  void name(const Args& args, const char* where) {                                 \
    const Args& resolved = resolve(args);                                          \
    if (step_ == nullptr || !step_->defers(resolved, where)) run(resolved, where); \
  }
#include "trimtok/ops.def"
#undef TT_OP

 private:
  friend class StepGraph;
  Backend(const KernelTable* table, int32_t n_threads, MemoryPtr memory, ComputePolicy compute,
          int32_t n_threads_decode);
  const void* upload_bytes(const void* host, size_t bytes);
  static void* take_scratch(void* self, size_t bytes);
  ThreadPool* decode_pool() {
    return decode_pool_ ? decode_pool_.get() : &pool_;
  }
  void use(ThreadPool& pool) {
    context_.pool = &pool;
    context_.n_threads = pool.n_threads();
  }

#define TT_OP(name, Args)                                       \
  void run(const Args& args, const char* where) {               \
    if (memory_ != nullptr) memory_->last_op = #name;           \
    if (watch_ != nullptr) watch_->before(Op::k_##name, &args); \
    const Status status = table_->name(context_, args);         \
    if (watch_ != nullptr) watch_->after(Op::k_##name);         \
    check_status(status, #name, where);                         \
  }
#include "trimtok/ops.def"
#undef TT_OP
  void run(const OpCall& call);

  template <typename Args>
  const Args& resolve(const Args& args) const {
    return args;
  }
  MatmulArgs resolve(const MatmulArgs& args) const {
    MatmulArgs resolved = args;
    resolved.compute = compute_for(args.w.dtype, args.x.rows);
    return resolved;
  }

  const KernelTable* table_;
  ComputePolicy compute_;
  MemoryPtr memory_;
  ThreadPool pool_;
  std::unique_ptr<ThreadPool> decode_pool_;  // null: pool_ serves every phase. Its workers sleep between
  Arena arena_;
  Buffer scratch_;
  ExecContext context_;
  std::unique_ptr<OpWatch> watch_;
  StepGraph* step_ = nullptr;  // the step that is being made; null: none
  StepCounts steps_;
};

}  // namespace trimtok
