#include "engine/core/threads.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
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
constexpr std::chrono::microseconds kSpin{50};
constexpr int kPollsPerClock = 32;  // reading the clock costs about as much as a few polls

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Polls until `ready` or the time is over; whether it became ready.
template <typename Ready>
bool spin(const Ready& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPollsPerClock; ++i) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  int32_t n_threads = 1;

  // One job at a time; `next` hands out its tasks. `gate` is its number (high half), whether it is open, and
  // how many workers are inside. A worker enters an open gate only: one that the system keeps from running
  // (other programs, NumPy's threads) holds up nobody, its share is done by the others.
  static constexpr uint64_t kOpen = uint64_t{1} << 31;
  static constexpr uint64_t kInside = kOpen - 1;
  static uint64_t number(uint64_t gate) { return gate >> 32; }
  std::atomic<uint64_t> gate{0};
  std::atomic<int64_t> next{0};
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

  void wait_beyond(uint64_t seen) {
    const auto ready = [&] { return number(gate.load()) != seen || stop.load(); };
    if (spin(ready)) return;
    std::unique_lock lock(mutex);
    sleepers.fetch_add(1);
    wake.wait(lock, ready);
    sleepers.fetch_sub(1);
  }

  // False: the job is over, or there is none.
  bool enter(uint64_t* seen) {
    uint64_t now = gate.load();
    while ((now & kOpen) != 0) {
      if (!gate.compare_exchange_weak(now, now + 1)) continue;
      *seen = number(now);
      return true;
    }
    *seen = number(now);
    return false;
  }

  void work(int32_t thread) {
    uint64_t seen = 0;
    while (true) {
      wait_beyond(seen);
      if (stop.load()) return;
      if (!enter(&seen)) continue;
      drain(thread);
      gate.fetch_sub(1);
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
  {
    // A worker about to sleep holds the mutex while it looks at the gate: no wake-up can be lost.
    std::lock_guard lock(s.mutex);
    s.gate.store((State::number(s.gate.load()) + 1) << 32 | State::kOpen);
  }
  if (s.sleepers.load() > 0) s.wake.notify_all();
  s.drain(0);
  // Nobody enters from here on; those inside are at their last task.
  s.gate.fetch_and(~State::kOpen);
  const auto empty = [&] { return (s.gate.load() & State::kInside) == 0; };
  if (spin(empty)) return;
  while (!empty()) std::this_thread::yield();
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
