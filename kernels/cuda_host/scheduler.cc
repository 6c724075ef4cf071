// Fibers and the order in which they run; launches.
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "kernels/cuda_host/machine.h"
#include "kernels/cuda_host/memory.h"
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_host {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kPage = 4096;

Options options_from_environment() {
  const auto value = [](const char* name) -> std::string {
    const char* text = std::getenv(name);
    return text == nullptr ? "" : text;
  };
  Options o;
  const std::string order = value("TRIMTOK_CUDA_HOST_ORDER");
  if (order == "reverse") o.order = Order::reverse;
  if (order == "random") o.order = Order::random;
  if (const std::string seed = value("TRIMTOK_CUDA_HOST_SEED"); !seed.empty()) {
    o.seed = std::strtoull(seed.c_str(), nullptr, 0);
  }
  const std::string mma = value("TRIMTOK_CUDA_HOST_MMA");
  if (mma == "a100") o.mma = MmaModel::a100;
  if (mma == "h100") o.mma = MmaModel::h100;
  o.isolated = value("TRIMTOK_CUDA_HOST_ISOLATED") == "1";
  o.deferred_cp_async = value("TRIMTOK_CUDA_HOST_CPASYNC") != "immediate";
  if (const std::string sm = value("TRIMTOK_CUDA_HOST_SM"); !sm.empty()) o.sm = std::atoi(sm.c_str());
  if (const std::string mib = value("TRIMTOK_CUDA_HOST_MEMORY_MIB"); !mib.empty()) {
    o.device_bytes = std::strtoull(mib.c_str(), nullptr, 10) << 20;
  }
  return o;
}

const std::function<void()>* g_body = nullptr;
void* g_main_stack_pointer = nullptr;
void* g_main_tsan = nullptr;
const void* g_main_stack = nullptr;
size_t g_main_stack_size = 0;
char g_tsan_start;
char g_tsan_done;

Fiber& self() {
  return *static_cast<Fiber*>(g_thread);
}

}  // namespace

Thread* g_thread = nullptr;
Block g_block;
Machine g_machine;

std::recursive_mutex& device_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

Options& options() {
  static Options o = options_from_environment();
  return o;
}

// ---- switching ----

#if defined(__x86_64__)
// Saves the callee-saved registers on the stack that is left and takes them from the one that is entered.
extern "C" void cuda_host_switch(void** from, void* to);
asm(R"(
.text
.globl cuda_host_switch
.hidden cuda_host_switch
.type cuda_host_switch, @function
cuda_host_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size cuda_host_switch, . - cuda_host_switch
)");

static void enter_kernel();

static void prepare_stack(Fiber& f) {  // so that the first switch "returns" into enter_kernel
  auto* top = reinterpret_cast<void**>(f.stack + kStackBytes) - 3;  // rsp % 16 == 8 there, as after a call
  *top = nullptr;
  *--top = reinterpret_cast<void*>(&enter_kernel);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f.stack_pointer = top;
}
#else
// The portable way: correct, and slower by a system call a switch.
static void cuda_host_switch(void** from, void* to) {
  swapcontext(static_cast<ucontext_t*>(*from), static_cast<ucontext_t*>(to));
}

static void enter_kernel();

static void prepare_stack(Fiber& f) {
  static ucontext_t main_context;
  g_main_stack_pointer = &main_context;
  if (f.stack_pointer == nullptr) f.stack_pointer = new ucontext_t;
  auto* context = static_cast<ucontext_t*>(f.stack_pointer);
  getcontext(context);
  context->uc_stack.ss_sp = f.stack;
  context->uc_stack.ss_size = kStackBytes;
  context->uc_link = nullptr;
  makecontext(context, &enter_kernel, 0);
}
#endif

static void switch_to_main(bool dying) {
  Fiber& f = self();
  if (__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(dying ? nullptr : &f.fake_stack, g_main_stack, g_main_stack_size);
  }
  if (__tsan_switch_to_fiber != nullptr) __tsan_switch_to_fiber(g_main_tsan, 1);
  cuda_host_switch(&f.stack_pointer, g_main_stack_pointer);
  if (__sanitizer_finish_switch_fiber != nullptr) {
    __sanitizer_finish_switch_fiber(f.fake_stack, nullptr, nullptr);
  }
}

static void switch_to(Fiber& f) {
  void* fake_stack = nullptr;
  g_thread = &f;
  if (__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(&fake_stack, f.stack, kStackBytes);
  }
  if (__tsan_switch_to_fiber != nullptr) __tsan_switch_to_fiber(f.tsan, 1);
  cuda_host_switch(&g_main_stack_pointer, f.stack_pointer);
  if (__sanitizer_finish_switch_fiber != nullptr)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
  g_thread = nullptr;
}

static void enter_kernel() {
  if (__sanitizer_finish_switch_fiber != nullptr) {
    __sanitizer_finish_switch_fiber(nullptr, &g_main_stack, &g_main_stack_size);
  }
  if (__tsan_acquire != nullptr) __tsan_acquire(&g_tsan_start);
  (*g_body)();
  Fiber& f = self();
  if (f.n_copies > 0) fail("the thread exits with %d cp.async copies that it never waited for", f.n_copies);
  if (__tsan_release != nullptr) __tsan_release(&g_tsan_done);
  f.state = State::done;
  --g_machine.n_live;
  ++g_machine.n_exited;
  g_machine.warps[f.warp].live &= ~(1u << f.lane);
  barrier_after_exit();
  abandon();
}

void abandon() {
  switch_to_main(true);
  std::abort();  // never reached: nothing resumes an abandoned fiber
}

void wait_here(State state, const char* what, const char* file, int line) {
  Fiber& f = self();
  f.state = state;
  f.where = Where{what, file, line};
  switch_to_main(false);
}

// ---- errors ----

void set_error(const std::string& text) {
  if (!g_machine.error.empty()) return;
  char place[160] = "";
  if (g_thread != nullptr) {
    std::snprintf(place, sizeof(place), "block (%u,%u,%u) thread (%u,%u,%u): ", g_block.index.x,
                  g_block.index.y, g_block.index.z, g_thread->index.x, g_thread->index.y, g_thread->index.z);
  }
  g_machine.error = place + text;
}

void fail(const char* format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  std::vsnprintf(text, sizeof(text), format, list);
  va_end(list);
  if (g_thread == nullptr) throw Error(text);
  set_error(text);
  if (__tsan_release != nullptr) __tsan_release(&g_tsan_done);
  abandon();  // the launch throws; an exception could not cross the fibers
}

static void describe_deadlock() {
  std::map<std::string, int> groups;
  for (int i = 0; i < g_machine.n_threads; ++i) {
    const Fiber& f = *g_machine.fibers[i];
    const std::string where = f.state == State::done ? "exited"
                                                     : std::string(f.where.what) + " at " + f.where.file +
                                                           ":" + std::to_string(f.where.line);
    ++groups[where];
  }
  std::string text = "deadlock:";
  for (const auto& [where, n] : groups) text += " [" + std::to_string(n) + " threads: " + where + "]";
  set_error(text);
}

// ---- blocks and grids ----

static void permute(std::vector<int>& order) {
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  if (options().order == Order::reverse) std::reverse(order.begin(), order.end());
  if (options().order == Order::random) std::shuffle(order.begin(), order.end(), g_machine.rng);
}

// Runs one warp until all its lanes wait or have exited; whether anything ran.
static bool run_warp(int warp, std::vector<int>& lanes) {
  bool any = false;
  for (bool again = true; again;) {
    again = false;
    permute(lanes);
    for (const int lane : lanes) {
      const int i = warp * kWarpSize + lane;
      if (i >= g_machine.n_threads || g_machine.fibers[i]->state != State::ready) continue;
      again = any = true;
      switch_to(*g_machine.fibers[i]);
      if (!g_machine.error.empty()) return false;
    }
  }
  return any;
}

static void run_block() {
  Machine& m = g_machine;
  m.n_live = m.n_threads;
  m.n_exited = 0;
  m.barrier = Barrier{};
  const int n_warps = (m.n_threads + kWarpSize - 1) / kWarpSize;
  for (int w = 0; w < n_warps; ++w) {
    m.warps[w].n_open = 0;
    m.warps[w].live = 0;
  }
  begin_shared(m.dynamic_bytes);
  const dim3 size = g_block.block;
  for (int i = 0; i < m.n_threads; ++i) {
    Fiber& f = *m.fibers[i];
    const auto u = static_cast<unsigned>(i);
    f.index = {u % size.x, u / size.x % size.y, u / (size.x * size.y)};
    f.linear = i;
    f.lane = i % kWarpSize;
    f.warp = i / kWarpSize;
    f.state = State::ready;
    f.n_copies = f.n_groups = 0;
    f.fake_stack = nullptr;
    m.warps[f.warp].live |= 1u << f.lane;
    if (__asan_unpoison_memory_region != nullptr) __asan_unpoison_memory_region(f.stack, kStackBytes);
    prepare_stack(f);
  }
  if (__tsan_release != nullptr) __tsan_release(&g_tsan_start);
  std::vector<int> warps(static_cast<size_t>(n_warps));
  std::vector<int> lanes(kWarpSize);
  for (bool any = true; any && m.n_live > 0;) {
    any = false;
    permute(warps);
    for (const int w : warps) {
      any |= run_warp(w, lanes);
      if (!m.error.empty()) return;
    }
  }
  if (m.n_live > 0) return describe_deadlock();
  check_shared_guards();
}

static void need_fibers(int n) {
  while (g_machine.n_fibers < n) {
    void* p = mmap(nullptr, kStackBytes + kPage, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw Error("no memory for the stack of a fiber");
    mprotect(p, kPage, PROT_NONE);  // a stack that overflows faults
    auto* f = new Fiber;
    f->stack = static_cast<char*>(p) + kPage;
    if (__tsan_create_fiber != nullptr) f->tsan = __tsan_create_fiber(0);
    g_machine.fibers[g_machine.n_fibers++] = f;
  }
}

void run_grid(dim3 grid, dim3 block, size_t dynamic_shared, const std::function<void()>& body) {
  Machine& m = g_machine;
  if (m.running) throw Error("a launch inside a kernel");
  const size_t n = static_cast<size_t>(block.x) * block.y * block.z;
  if (n == 0 || n > kMaxThreads || block.z > 64)
    throw Error("invalid launch: " + std::to_string(n) + " threads a block");
  if (grid.x == 0 || grid.x > 0x7fffffffu || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    throw Error("invalid launch: a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) +
                " x " + std::to_string(grid.z));
  }
  if (dynamic_shared > shared_limit()) {
    throw Error("invalid launch: " + std::to_string(dynamic_shared) + " bytes of dynamic shared memory, sm_" +
                std::to_string(options().sm) + " has " + std::to_string(shared_limit()));
  }
  const DeviceAccess access;
  need_fibers(static_cast<int>(n));
  if (__tsan_get_current_fiber != nullptr) g_main_tsan = __tsan_get_current_fiber();
  g_block.grid = grid;
  g_block.block = block;
  m.n_threads = static_cast<int>(n);
  m.dynamic_bytes = dynamic_shared;
  m.rng.seed(options().seed);
  m.error.clear();
  m.running = true;
  g_body = &body;
  std::vector<int> blocks(static_cast<size_t>(grid.x) * grid.y * grid.z);
  permute(blocks);
  for (const int b : blocks) {
    const auto u = static_cast<unsigned>(b);
    g_block.index = {u % grid.x, u / grid.x % grid.y, u / (grid.x * grid.y)};
    run_block();
    if (!m.error.empty()) break;
  }
  m.running = false;
  end_shared();
  check_device_guards();
  if (__tsan_acquire != nullptr) __tsan_acquire(&g_tsan_done);
  if (!m.error.empty()) throw Error(m.error);
}

}  // namespace cuda_host
