#include "engine/core/threads.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/core/error.h"

namespace trimtok {
namespace {

constexpr int32_t kMaxThreads = 512;
// How long an idle worker polls before it sleeps: bridges the gap between two ops of a layer, and a
// desktop application that waits for its user burns nothing.
constexpr int kSpins = 4000;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  int32_t n_threads = 1;

  // One job at a time. `epoch` announces it, `next` hands out its tasks, `busy` counts workers in it.
  std::atomic<uint64_t> epoch{0};
  std::atomic<int64_t> next{0};
  std::atomic<int32_t> busy{0};
  std::atomic<bool> stop{false};
  int64_t n_tasks = 0;
  ExecContext::Task task = nullptr;
  void* arg = nullptr;

  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<int32_t> sleepers{0};

  void drain(int32_t thread) {
    for (int64_t i = next.fetch_add(1); i < n_tasks; i = next.fetch_add(1)) task(arg, i, thread);
  }

  void wait_for(uint64_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      if (epoch.load(std::memory_order_acquire) != seen || stop.load(std::memory_order_relaxed)) return;
      relax();
    }
    std::unique_lock lock(mutex);
    sleepers.fetch_add(1);
    wake.wait(lock, [&] { return epoch.load() != seen || stop.load(); });
    sleepers.fetch_sub(1);
  }

  void work(int32_t thread) {
    uint64_t seen = 0;
    while (true) {
      wait_for(seen);
      if (stop.load()) return;
      seen = epoch.load(std::memory_order_acquire);
      drain(thread);
      busy.fetch_sub(1, std::memory_order_release);
    }
  }
};

ThreadPool::ThreadPool(int32_t n_threads) : state_(std::make_unique<State>()) {
  if (n_threads < 1 || n_threads > kMaxThreads) {
    fail(ErrorCode::kInvalidArgument, "[n_threads] is %d, must be in [1, %d]", n_threads, kMaxThreads);
  }
  state_->n_threads = n_threads;
  try {
    for (int32_t i = 1; i < n_threads; ++i) {
      state_->workers.emplace_back([s = state_.get(), i] { s->work(i); });
    }
  } catch (const std::system_error&) {
    const size_t started = state_->workers.size();
    state_->stop.store(true);
    state_->wake.notify_all();
    for (std::thread& worker : state_->workers) worker.join();
    fail(ErrorCode::kOutOfMemory, "[n_threads] the system gave %zu of %d threads; use fewer", started + 1,
         n_threads);
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop.store(true);
  }
  state_->wake.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int32_t ThreadPool::n_threads() const noexcept {
  return state_->n_threads;
}

void ThreadPool::parallel(int64_t n_tasks, ExecContext::Task task, void* arg) {
  if (n_tasks <= 0) return;
  State& s = *state_;
  if (n_tasks == 1 || s.workers.empty()) {
    for (int64_t i = 0; i < n_tasks; ++i) task(arg, i, 0);
    return;
  }
  s.n_tasks = n_tasks;
  s.task = task;
  s.arg = arg;
  s.next.store(0);
  s.busy.store(static_cast<int32_t>(s.workers.size()));
  {
    // A worker about to sleep holds the mutex while it checks the epoch: no wake-up can be lost.
    std::lock_guard lock(s.mutex);
    s.epoch.fetch_add(1, std::memory_order_release);
  }
  if (s.sleepers.load() > 0) s.wake.notify_all();
  s.drain(0);
  // Every worker passes through every job, so the next one cannot start while a slow worker looks at this
  // one.
  for (int spins = 0; s.busy.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpins) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

int32_t ThreadPool::default_n_threads() {
#if defined(__linux__)
  // Containers and taskset narrow the set; hardware_concurrency may not see it.
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::clamp(CPU_COUNT(&set), 1, kMaxThreads);
#endif
  return std::clamp(static_cast<int32_t>(std::thread::hardware_concurrency()), 1, kMaxThreads);
}

}  // namespace trimtok
