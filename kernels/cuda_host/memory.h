// Device buffers of the modelled device: between memory.cc and the runtime API.
#pragma once

#include <cstddef>
#include <vector>

namespace cuda_host {

struct DeviceBuffer {
  char* p;
  size_t bytes;
};

void* device_allocate(size_t bytes);  // nullptr: the modelled device is full
bool device_release(void* p);         // false: not a device buffer
size_t device_bytes_used();
// Whether [p, p + bytes) lies inside one device buffer.
bool is_device_range(const void* p, size_t bytes);
// While one of these lives, which holds the device's lock, device memory can be touched. Without
// options().isolated it always can.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};
// False where a range starts in or next to a device buffer and does not lie inside it.
bool range_is_sound(const void* p, size_t bytes);

}  // namespace cuda_host
