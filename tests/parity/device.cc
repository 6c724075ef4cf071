// What the harness needs to know about devices.
#include "trimtok/device.h"
#include "harness.h"

#if defined(TT_CUDA_HOST)
#include "kernels/cuda_host/options.h"
#endif

namespace trimtok::parity {

const KernelTable* find_table(Isa isa) {
  if (static_cast<int32_t>(isa) < kNumIsas) return cpu_table(isa);
  const char* reason = nullptr;
  const KernelTable* table = cuda_table(&reason);
  return table != nullptr && table->isa == isa && cuda::device_count(&reason) > 0 ? table : nullptr;
}

Status finish(const KernelTable& table) {
  return on_device(table) ? cuda::synchronize(nullptr) : Status::kOk;
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
