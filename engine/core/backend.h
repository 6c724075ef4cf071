// A device as the engine sees it: an op table, the context its ops run in, an arena for activations.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/core/threads.h"
#include "trimtok/kernels.h"

namespace trimtok {

// "auto", "f32", "bf16", "int8"; throws Error(kInvalidArgument) for another name.
ComputePolicy compute_policy_from_name(const char* name);
const char* compute_policy_name(ComputePolicy policy);

class Backend {
 public:
  // The ISA is the machine's best, or TRIMTOK_CPU_ISA when set (a name of isa_name): asking for one that the
  // machine or the build lacks is an error, as is a policy that the ISA has no bodies for. No other
  // environment variable changes results.
  // n_threads_decode: threads while an answer is written, which waits for memory; 0: n_threads.
  static std::unique_ptr<Backend> cpu(int32_t n_threads, ComputePolicy compute = ComputePolicy::kF32,
                                      int32_t n_threads_decode = 0);

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
    return cpu_compute(table_->isa, compute_, weight, rows);
  }
  std::string device() const { return "cpu"; }
  // Bytes of op scratch and activations held now.
  size_t scratch_bytes() const noexcept { return arena_.capacity() + scratch_.size(); }

  // Small per-call arrays (ids, intervals, rope tables) go through here: on the CPU this is the caller's
  // memory itself, valid as long as the caller keeps it.
  template <typename T>
  const T* upload(std::span<const T> host) {
    return host.data();
  }

  // Calls an op of the table and turns a bad status into an Error naming the op and `where`. The compute of a
  // matmul's arguments is replaced by what the policy says.
#define TT_OP(name, Args)                                              \
  void name(const Args& args, const char* where) {                     \
    check_status(table_->name(context_, resolve(args)), #name, where); \
  }
#include "trimtok/ops.def"
#undef TT_OP

 private:
  Backend(const KernelTable* table, int32_t n_threads, ComputePolicy compute, int32_t n_threads_decode);
  ThreadPool* decode_pool() {
    return decode_pool_ ? decode_pool_.get() : &pool_;
  }
  void use(ThreadPool& pool) {
    context_.pool = &pool;
    context_.n_threads = pool.n_threads();
  }

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
  ThreadPool pool_;
  std::unique_ptr<ThreadPool> decode_pool_;  // null: pool_ serves every phase. Its workers sleep between
  Arena arena_;
  Buffer scratch_;
  ExecContext context_;
};

}  // namespace trimtok
