// The device seam: memory, copies, streams and captured graphs of the CUDA backend behind plain functions, so
// that the engine includes no CUDA header and has no #ifdef. kernels/cuda/device.cu implements it over the
// CUDA runtime (the real one, or the subset of kernels/cuda_host); a build without CUDA has stubs that say
// so.
#pragma once

#include "trimtok/view.h"

namespace trimtok::cuda {

// Text of this thread's last failure: CUDA's own words, or the report of the host execution layer. Never
// null.
const char* last_error();

// Number of usable devices. 0 when there is no driver or no device: *reason then says why (never null after).
int32_t device_count(const char** reason);

struct DeviceProperties {
  char name[256];
  int32_t compute_capability;  // 10 * major + minor
  int32_t multiprocessors;
  int64_t total_bytes;
  int64_t free_bytes;
  int32_t driver_version;  // 1000 * major + 10 * minor, as CUDA counts
  int32_t runtime_version;
  bool host_execution;  // kernels/cuda_host, not a GPU
};
Status device_properties(int32_t device, DeviceProperties* properties);
Status select_device(int32_t device);  // for the calling thread

// 256-byte aligned. kOutOfMemory leaves the device usable.
Status allocate(void** p, size_t bytes);
Status release(void* p);
// Page-locked host memory: copies from and to it can overlap with kernels.
Status allocate_pinned(void** p, size_t bytes);
Status release_pinned(void* p);
// Memory that host and device both see at one address (slow to share; for tests). Freed by release().
Status allocate_managed(void** p, size_t bytes);

// All of these are put on `stream` in order. Host memory must stay as it is until the stream is synchronised.
Status copy_to_device(void* device, const void* host, size_t bytes, void* stream);
Status copy_to_host(void* host, const void* device, size_t bytes, void* stream);
Status copy_on_device(void* to, const void* from, size_t bytes, void* stream);
Status fill_bytes(void* device, int32_t byte, size_t bytes, void* stream);

Status create_stream(void** stream);
Status destroy_stream(void* stream);
// Waits; a kernel that failed since the last call shows here as kDeviceError.
Status synchronize(void* stream);

// Everything put on `stream` between begin and end is recorded and not run; the graph runs it as often as
// wanted, with the arguments and addresses of the recording.
Status begin_capture(void* stream);
Status end_capture(void* stream, void** graph);
Status launch_graph(void* graph, void* stream);
Status destroy_graph(void* graph);

// Time between two points of a stream.
Status create_event(void** event);
Status destroy_event(void* event);
Status record_event(void* event, void* stream);
Status elapsed_ms(void* start, void* stop, float* ms);  // waits for stop

}  // namespace trimtok::cuda
