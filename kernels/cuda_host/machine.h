// The state of the machine that cuda_host models; shared by the files of the runtime only.
//
// The runtime is compiled without sanitizers and talks to them through weak symbols where they are linked in.
// While a fiber runs it must not call malloc, memset or memcpy: ThreadSanitizer intercepts those and would
// take them for accesses of the kernel.
#pragma once

#include <mutex>
#include <random>
#include <string>

#include "kernels/cuda_host/cuda_host.h"

extern "C" {
#define CUDA_HOST_WEAK __attribute__((weak))
CUDA_HOST_WEAK void __sanitizer_start_switch_fiber(void**, const void*, size_t);
CUDA_HOST_WEAK void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
CUDA_HOST_WEAK void __asan_poison_memory_region(const volatile void*, size_t);
CUDA_HOST_WEAK void __asan_unpoison_memory_region(const volatile void*, size_t);
CUDA_HOST_WEAK void* __tsan_get_current_fiber();
CUDA_HOST_WEAK void* __tsan_create_fiber(unsigned);
CUDA_HOST_WEAK void __tsan_switch_to_fiber(void*, unsigned);
CUDA_HOST_WEAK void __tsan_acquire(void*);
CUDA_HOST_WEAK void __tsan_release(void*);
#undef CUDA_HOST_WEAK
}

namespace cuda_host {

constexpr int kMaxThreads = 1024;
constexpr int kWarpSize = 32;
constexpr int kMaxShared = 256;  // shared arrays of one kernel
constexpr unsigned char kCanary = 0xc5;

enum class State : uint8_t { ready, in_warp, in_barrier, done };

struct Where {
  const char* what = "";
  const char* file = "";
  int line = 0;
  bool same_place(const char* other_file, int other_line) const {
    return line == other_line && (file == other_file || std::strcmp(file, other_file) == 0);
  }
};

struct Fiber : Thread {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  void* tsan = nullptr;
  void* fake_stack = nullptr;  // ASan's
  State state = State::done;
  Where where;
};

// A warp-wide operation that some lanes of its mask have reached.
struct Collective {
  unsigned mask;
  unsigned arrived;
  int clock;
  Where where;
  void* operand[kWarpSize];
};

struct Warp {
  Collective open[kWarpSize];
  int n_open;
  unsigned live;  // lanes that exist and have not exited
  int n_made;
  char clocks[8];  // addresses that TSan's happens-before is attached to
};

struct Barrier {
  int arrived = 0;
  int count = 0;   // of predicates, so far
  int result = 0;  // of the round that was released last
  int first = 0;   // the thread that came first
  unsigned round = 0;
  Where where;
  // Two clocks in turn: a warp that has already reached the next barrier must not be ordered before one that
  // is only now leaving this one, or TSan would miss every race between the two barriers.
  char clocks[2];
};

struct SharedArray {
  const void* key;
  size_t offset;
  size_t bytes;
  const char* name;
};

struct Machine {
  Fiber* fibers[kMaxThreads];
  int n_fibers = 0;
  int n_threads = 0;  // of the running block
  int n_live = 0;
  int n_exited = 0;
  Warp warps[kMaxThreads / kWarpSize];
  Barrier barrier;
  SharedArray shared[kMaxShared];
  int n_shared = 0;
  size_t dynamic_bytes = 0;
  bool running = false;
  std::string error;  // the first one of a launch
  std::mt19937_64 rng;
};
extern Machine g_machine;
// There is one device: who launches, allocates or copies holds this. Recursive, so that a launch inside a
// kernel is reported and does not hang.
std::recursive_mutex& device_mutex();
using DeviceLock = std::lock_guard<std::recursive_mutex>;

// Records the first error, with the running thread's place in the grid. From inside a fiber fail() is what
// stops it; the scheduler uses this directly.
void set_error(const std::string& text);
// Gives the processor back until the scheduler finds this fiber ready again.
void wait_here(State state, const char* what, const char* file, int line);
// Ends the running fiber after an error was recorded.
[[noreturn]] void abandon();
void release_barrier();
void barrier_after_exit();  // a thread has left: those that wait may now be all there are

// Shared memory of one block: arrays between guard zones, poisoned.
void begin_shared(size_t dynamic_bytes);
void check_shared_guards();
void end_shared();
size_t shared_limit();
// Guard zones around every device buffer.
void check_device_guards();

// tensor_core.cc: one warp's matrix product; lanes[i] is lane i's part.
struct MmaLane {
  void* d;
  const uint32_t* a;
  const uint32_t* b;
};
void multiply(MmaKind kind, const MmaLane* const* lanes);

// The launch itself; submit() decides whether it runs now or is recorded.
void run_grid(dim3 grid, dim3 block, size_t dynamic_shared, const std::function<void()>& body);

// memset's stand-in inside fibers.
inline void fill(char* p, unsigned char byte, size_t n) {
  for (size_t i = 0; i < n; ++i) p[i] = static_cast<char>(byte);
}
inline bool sanitized() {
  return __asan_poison_memory_region != nullptr;
}

}  // namespace cuda_host
