#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

#include "harness.h"

namespace trimtok::parity {
namespace {

constexpr size_t kScratchGuard = 128;
constexpr unsigned char kScratchGuardByte = 0xa5;

}  // namespace

struct Pool::State {
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable done;
  std::vector<std::thread> threads;
  int64_t generation = 0;
  int32_t busy = 0;
  bool stop = false;
  ExecContext::Task task = nullptr;
  void* arg = nullptr;
  int64_t n_tasks = 0;
  int64_t next = 0;  // guarded by mutex: simple rather than quick, a task is large against a lock

  void work(int32_t thread) {
    for (;;) {
      int64_t i = 0;
      {
        const std::lock_guard<std::mutex> lock(mutex);
        if (next >= n_tasks) return;
        i = next++;
      }
      task(arg, i, thread);
    }
  }

  void serve(int32_t thread) {
    int64_t seen = 0;
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return stop || generation != seen; });
        if (stop) return;
        seen = generation;
      }
      work(thread);
      const std::lock_guard<std::mutex> lock(mutex);
      if (--busy == 0) done.notify_one();
    }
  }
};

Pool::Pool(int32_t n_threads) : state_(std::make_unique<State>()) {
  for (int32_t i = 1; i < n_threads; ++i) {
    state_->threads.emplace_back([this, i] { state_->serve(i); });
  }
}

Pool::~Pool() {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stop = true;
  }
  state_->wake.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

int32_t Pool::n_threads() const {
  return static_cast<int32_t>(state_->threads.size()) + 1;
}

void Pool::run(void* pool, int64_t n_tasks, ExecContext::Task task, void* arg) {
  State& state = *static_cast<Pool*>(pool)->state_;
  {
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.task = task;
    state.arg = arg;
    state.n_tasks = n_tasks;
    state.next = 0;
    state.busy = static_cast<int32_t>(state.threads.size());
    ++state.generation;
  }
  state.wake.notify_all();
  state.work(0);
  std::unique_lock<std::mutex> lock(state.mutex);
  state.done.wait(lock, [&] { return state.busy == 0; });
}

Execution::Execution(Threads threads, int32_t n_threads, uint64_t seed, bool scratch_fails)
    : rng_(seed), scratch_fails_(scratch_fails) {
  context_.n_threads = n_threads;
  context_.scratch = take_scratch;
  context_.scratch_owner = this;
  if (threads == Threads::kSimulated) {
    context_.parallel = simulate;
    context_.pool = this;
  } else if (threads == Threads::kReal) {
    pool_ = std::make_unique<Pool>(n_threads);
    context_.parallel = Pool::run;
    context_.pool = pool_.get();
  }
}

Execution::~Execution() {
  for (const auto& [p, bytes] : scratch_) release_visible(p);
}

void Execution::simulate(void* self, int64_t n_tasks, ExecContext::Task task, void* arg) {
  auto& execution = *static_cast<Execution*>(self);
  for (int64_t i = 0; i < n_tasks; ++i) task(arg, i, execution.rng_.below(execution.context_.n_threads));
}

void* Execution::take_scratch(void* self, size_t bytes) {
  auto& execution = *static_cast<Execution*>(self);
  if (execution.scratch_fails_) return nullptr;
  const size_t size = (bytes + kScratchGuard + 63) / 64 * 64;
  auto* p = static_cast<char*>(allocate_visible(size));
  std::memset(p, 0xff, bytes);  // NaN: nothing may rely on fresh scratch
  std::memset(p + bytes, kScratchGuardByte, size - bytes);
  execution.scratch_.emplace_back(p, bytes);
  return p;
}

bool Execution::scratch_intact() const {
  for (const auto& [p, bytes] : scratch_) {
    for (size_t i = 0; i < kScratchGuard; ++i) {
      if (static_cast<unsigned char>(p[bytes + i]) != kScratchGuardByte) return false;
    }
  }
  return true;
}

}  // namespace trimtok::parity
