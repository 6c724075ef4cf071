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

class Backend {
 public:
  // The ISA is the machine's best, or TRIMTOK_CPU_ISA when set (ref, neon, avx2, avx512): asking for one
  // that the machine or the build lacks is an error. No other environment variable changes results.
  static std::unique_ptr<Backend> cpu(int32_t n_threads);

  const KernelTable& ops() const noexcept { return *table_; }
  const ExecContext& context() const noexcept { return context_; }
  Arena& arena() noexcept { return arena_; }
  int32_t n_threads() const noexcept { return pool_.n_threads(); }
  std::string device() const { return "cpu"; }
  // Bytes of op scratch and activations held now.
  size_t scratch_bytes() const noexcept { return arena_.capacity() + scratch_.size(); }

  // Small per-call arrays (ids, intervals, rope tables) go through here: on the CPU this is the caller's
  // memory itself, valid as long as the caller keeps it.
  template <typename T>
  const T* upload(std::span<const T> host) {
    return host.data();
  }

  // Calls an op of the table and turns a bad status into an Error naming the op and `where`.
#define TT_OP(name, Args)                                     \
  void name(const Args& args, const char* where) {            \
    check_status(table_->name(context_, args), #name, where); \
  }
#include "trimtok/ops.def"
#undef TT_OP

 private:
  Backend(const KernelTable* table, int32_t n_threads);
  const KernelTable* table_;
  ThreadPool pool_;
  Arena arena_;
  Buffer scratch_;
  ExecContext context_;
};

}  // namespace trimtok
