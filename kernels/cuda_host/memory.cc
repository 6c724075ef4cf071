// Shared memory of a block and the buffers of the device: poisoned when fresh, between guard zones. In a
// plain build the zones are canaries, looked at when a block or a launch ends; under ASan they are poisoned,
// so that the access itself is reported.
#include "kernels/cuda_host/memory.h"

#include <sys/mman.h>

#include "kernels/cuda_host/machine.h"

namespace cuda_host {
namespace {

constexpr size_t kArenaBytes = 1 << 20;
constexpr size_t kSharedGuard = 64;
constexpr size_t kAlign = 16;

char* g_arena = nullptr;
size_t g_arena_used = 0;
SharedArray g_dynamic;

size_t round_up(size_t n, size_t to) {
  return (n + to - 1) / to * to;
}

void guard(size_t offset, size_t bytes) {
  if (sanitized()) {
    __asan_poison_memory_region(g_arena + offset, bytes);
  } else {
    fill(g_arena + offset, kCanary, bytes);
  }
}

size_t carve(size_t bytes) {
  const size_t offset = g_arena_used + kSharedGuard;
  const size_t next = round_up(offset + bytes, kAlign);
  if (next + kSharedGuard > kArenaBytes) fail("no room for %zu bytes of shared memory", bytes);
  guard(offset + bytes, next + kSharedGuard - (offset + bytes));
  g_arena_used = next;
  if (sanitized()) __asan_unpoison_memory_region(g_arena + offset, bytes);
  fill(g_arena + offset, options().poison, bytes);
  return offset;
}

bool all_canary(const char* begin, const char* end) {
  for (const char* p = begin; p < end; ++p) {
    if (static_cast<unsigned char>(*p) != kCanary) return false;
  }
  return true;
}

void check_guards(const SharedArray& array) {
  const char* begin = g_arena + array.offset;
  const char* end = begin + array.bytes;
  const char* next = g_arena + round_up(array.offset + array.bytes, kAlign) + kSharedGuard;
  if (all_canary(begin - kSharedGuard, begin) && all_canary(end, next)) return;
  set_error("a write outside the shared array '" + std::string(array.name) + "' of " +
            std::to_string(array.bytes) + " bytes");
}

}  // namespace

size_t shared_limit() {
  const int sm = options().sm;
  const size_t kib = sm < 80 ? 64 : sm == 80 ? 163 : sm < 90 ? 99 : sm < 120 ? 227 : 99;
  return kib * 1024;
}

void begin_shared(size_t dynamic_bytes) {
  if (g_arena == nullptr || __tsan_switch_to_fiber != nullptr) {
    // TSan: fresh pages for every block, because they are another block's memory.
    void* p = mmap(g_arena, kArenaBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | (g_arena == nullptr ? 0 : MAP_FIXED), -1, 0);
    if (p == MAP_FAILED) throw Error("no memory for shared memory");
    g_arena = static_cast<char*>(p);
  }
  g_arena_used = 0;
  g_machine.n_shared = 0;
  guard(0, kSharedGuard);
  g_dynamic = SharedArray{nullptr, carve(dynamic_bytes), dynamic_bytes, "dynamic shared memory"};
}

void check_shared_guards() {
  if (sanitized()) return;
  check_guards(g_dynamic);
  for (int i = 0; i < g_machine.n_shared; ++i) check_guards(g_machine.shared[i]);
}

void end_shared() {
  if (sanitized() && g_arena != nullptr) __asan_unpoison_memory_region(g_arena, kArenaBytes);
}

void* shared_slot(const void* key, size_t bytes, const char* name) {
  Machine& m = g_machine;
  if (g_thread == nullptr) fail("shared memory '%s' outside a kernel", name);
  size_t total = g_dynamic.bytes + bytes;
  for (int i = 0; i < m.n_shared; ++i) {
    if (m.shared[i].key == key) return g_arena + m.shared[i].offset;
    total += m.shared[i].bytes;
  }
  if (total > shared_limit() || m.n_shared == kMaxShared) {
    fail("the block uses %zu bytes of shared memory, sm_%d has %zu", total, options().sm, shared_limit());
  }
  SharedArray& array = m.shared[m.n_shared++];
  array.key = key;
  array.offset = carve(bytes);
  array.bytes = bytes;
  array.name = name;
  return g_arena + array.offset;
}

void* dyn_shared() {
  if (g_thread == nullptr) fail("dynamic shared memory outside a kernel");
  return g_arena + g_dynamic.offset;
}

// ---- device buffers ----

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kDeviceGuard = kPage;  // so that buffers are whole pages, which can be shut
constexpr size_t kDeviceAlign = 256;

std::vector<DeviceBuffer>& buffers() {
  static auto* list = new std::vector<DeviceBuffer>;  // never destroyed: device memory may outlive statics
  return *list;
}

size_t extent(size_t bytes) {
  return round_up(bytes, kPage) + 2 * kDeviceGuard;
}

int g_accesses = 0;
bool g_shut = false;  // some buffer is

void protect_all(int protection) {
  for (const DeviceBuffer& b : buffers()) mprotect(b.p - kDeviceGuard, extent(b.bytes), protection);
  g_shut = protection == PROT_NONE;
}

}  // namespace

DeviceAccess::DeviceAccess() {
  device_mutex().lock();
  if (g_accesses++ == 0 && g_shut) protect_all(PROT_READ | PROT_WRITE);
}

DeviceAccess::~DeviceAccess() {
  if (--g_accesses == 0 && options().isolated) protect_all(PROT_NONE);
  device_mutex().unlock();
}

size_t device_bytes_used() {
  const DeviceLock lock(device_mutex());
  size_t used = 0;
  for (const DeviceBuffer& b : buffers()) used += b.bytes;
  return used;
}

void* device_allocate(size_t bytes) {
  const DeviceLock lock(device_mutex());
  if (bytes > options().device_bytes || device_bytes_used() > options().device_bytes - bytes) return nullptr;
  static_assert(kPage % kDeviceAlign == 0);
  void* base = mmap(nullptr, extent(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  const DeviceAccess access;
  char* p = static_cast<char*>(base) + kDeviceGuard;
  fill(p - kDeviceGuard, kCanary, kDeviceGuard);
  fill(p, options().poison, bytes);
  fill(p + bytes, kCanary, extent(bytes) - kDeviceGuard - bytes);
  if (sanitized()) {
    __asan_poison_memory_region(base, kDeviceGuard);
    __asan_poison_memory_region(p + bytes, extent(bytes) - kDeviceGuard - bytes);
  }
  buffers().push_back({p, bytes});
  return p;
}

bool device_release(void* p) {
  const DeviceLock lock(device_mutex());
  auto& list = buffers();
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].p != p) continue;
    if (sanitized()) __asan_unpoison_memory_region(list[i].p - kDeviceGuard, extent(list[i].bytes));
    munmap(list[i].p - kDeviceGuard, extent(list[i].bytes));
    list.erase(list.begin() + static_cast<std::ptrdiff_t>(i));
    return true;
  }
  return false;
}

bool range_is_sound(const void* p, size_t bytes) {
  const DeviceLock lock(device_mutex());
  const auto* begin = static_cast<const char*>(p);
  for (const DeviceBuffer& b : buffers()) {
    const bool touches = begin >= b.p - kDeviceGuard && begin < b.p + b.bytes + kDeviceGuard;
    if (touches && (begin < b.p || bytes > b.bytes || begin + bytes > b.p + b.bytes)) return false;
  }
  return true;
}

bool is_device_range(const void* p, size_t bytes) {
  const DeviceLock lock(device_mutex());
  const auto* begin = static_cast<const char*>(p);
  for (const DeviceBuffer& b : buffers()) {
    if (begin >= b.p && begin < b.p + b.bytes) return bytes <= static_cast<size_t>(b.p + b.bytes - begin);
  }
  return false;
}

void check_device_guards() {
  if (sanitized()) return;
  const DeviceAccess access;
  for (const DeviceBuffer& b : buffers()) {
    const char* end = b.p + b.bytes;
    if (all_canary(b.p - kDeviceGuard, b.p) && all_canary(end, b.p - kDeviceGuard + extent(b.bytes)))
      continue;
    set_error("a write outside a device buffer of " + std::to_string(b.bytes) + " bytes");
    fill(b.p - kDeviceGuard, kCanary, kDeviceGuard);  // one launch's mistake is reported once
    fill(b.p + b.bytes, kCanary, extent(b.bytes) - kDeviceGuard - b.bytes);
  }
}

}  // namespace cuda_host
