// What the harness needs to know about devices.
#include <cstdio>
#include <cstdlib>

#include "harness.h"
#include "trimtok/device.h"

#if defined(TT_CUDA_HOST)
#include "kernels/cuda_host/options.h"
#endif

namespace trimtok::parity {

bool visible_is_managed() {
  static const bool kManaged = [] {
    const char* reason = nullptr;
    const KernelTable* table = cuda_table(&reason);
    return table != nullptr && table->isa == Isa::kCuda && cuda::device_count(&reason) > 0;
  }();
  return kManaged;
}

void* allocate_visible(size_t bytes) {
  void* p = nullptr;
  bytes = (bytes + 255) / 256 * 256 + (bytes == 0 ? 256 : 0);
  if (visible_is_managed()) {
    (void)cuda::allocate_managed(&p, bytes);
  } else {
    p = std::aligned_alloc(256, bytes);
  }
  if (p == nullptr) {
    std::fprintf(stderr, "parity: no memory for %zu bytes\n", bytes);
    std::exit(3);
  }
  return p;
}

void release_visible(void* p) {
  if (visible_is_managed()) {
    (void)cuda::release(p);
  } else {
    std::free(p);
  }
}

void set_run_order([[maybe_unused]] const KernelTable& table, [[maybe_unused]] int32_t run) {
#if defined(TT_CUDA_HOST)
  using cuda_host::Order;
  if (table.isa != Isa::kCudaHost) return;
  cuda_host::options().order = run == 1 ? Order::forward : run == 2 ? Order::reverse : Order::random;
  cuda_host::options().seed += 1;
#endif
}

}  // namespace trimtok::parity
