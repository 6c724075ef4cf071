// The CUDA table and the device seam of a build without CUDA: they say so, so that no caller needs an #ifdef.
#include "trimtok/device.h"
#include "trimtok/kernels.h"

namespace trimtok {
namespace {

constexpr char kReason[] = "this build has no CUDA kernels (configure with -DTRIMTOK_CUDA=ON)";

}  // namespace

const KernelTable* cuda_table(const char** reason) {
  if (reason != nullptr) *reason = kReason;
  return nullptr;
}

namespace cuda {

const char* last_error() {
  return kReason;
}

int32_t device_count(const char** reason) {
  if (reason != nullptr) *reason = kReason;
  return 0;
}

#define TT_ABSENT(signature)       \
  Status signature {               \
    return Status::kUnimplemented; \
  }
TT_ABSENT(device_properties(int32_t, DeviceProperties*))
TT_ABSENT(select_device(int32_t))
TT_ABSENT(allocate(void**, size_t))
TT_ABSENT(release(void*))
TT_ABSENT(allocate_pinned(void**, size_t))
TT_ABSENT(release_pinned(void*))
TT_ABSENT(allocate_managed(void**, size_t))
TT_ABSENT(copy_to_device(void*, const void*, size_t, void*))
TT_ABSENT(copy_to_host(void*, const void*, size_t, void*))
TT_ABSENT(copy_on_device(void*, const void*, size_t, void*))
TT_ABSENT(fill_bytes(void*, int32_t, size_t, void*))
TT_ABSENT(create_stream(void**))
TT_ABSENT(destroy_stream(void*))
TT_ABSENT(synchronize(void*))
TT_ABSENT(begin_capture(void*))
TT_ABSENT(end_capture(void*, void**))
TT_ABSENT(launch_graph(void*, void*))
TT_ABSENT(destroy_graph(void*))
TT_ABSENT(create_event(void**))
TT_ABSENT(destroy_event(void*))
TT_ABSENT(record_event(void*, void*))
TT_ABSENT(elapsed_ms(void*, void*, float*))
#undef TT_ABSENT

}  // namespace cuda
}  // namespace trimtok
