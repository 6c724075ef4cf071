// A fixed pool: n_threads - 1 workers plus the caller. No work stealing, no nesting.
#pragma once

#include <cstdint>
#include <memory>

#include "trimtok/kernels.h"

namespace trimtok {

class ThreadPool {
 public:
  // 1 <= n_threads <= 512; default_n_threads() is the number of CPUs this process may run on.
  explicit ThreadPool(int32_t n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int32_t n_threads() const noexcept;
  // Runs task(arg, i, thread) for every i in [0, n_tasks); see ExecContext. One caller at a time.
  // Idle workers spin for a bounded time (tens of microseconds), then sleep.
  void parallel(int64_t n_tasks, ExecContext::Task task, void* arg);

  static int32_t default_n_threads();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace trimtok
