// The device seam over the CUDA runtime API, and the error text that kernels and seam share.
#include "trimtok/device.h"

#include <cstdio>
#include <cstring>

#include "kernels/cuda/gpu.h"

namespace trimtok::cuda {
namespace {

constexpr int kMaxDevices = 64;

thread_local char t_error[512] = "no error";

cudaStream_t as_stream(void* stream) {
  return static_cast<cudaStream_t>(stream);
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, which, device) != cudaSuccess) return 0;
  return value;
}

}  // namespace

namespace gpu {

Status fail(Status status, const char* text) {
  std::snprintf(t_error, sizeof(t_error), "%s", text);
  return status;
}

Status check(cudaError_t result) {
  if (result == cudaSuccess) return Status::kOk;
  std::snprintf(t_error, sizeof(t_error), "CUDA error %d, %s: %s", static_cast<int>(result),
                cudaGetErrorName(result), cudaGetErrorString(result));
  (void)cudaGetLastError();  // or the next, innocent call would report it again
  return result == cudaErrorMemoryAllocation ? Status::kOutOfMemory : Status::kDeviceError;
}

const Device& device() {
  thread_local Device devices[kMaxDevices];  // of each thread: no lock
  int current = 0;
  if (cudaGetDevice(&current) != cudaSuccess || current < 0 || current >= kMaxDevices) current = 0;
  Device& d = devices[current];
#if defined(TT_CUDA_HOST)
  const bool known = false;  // the layer's options may change between two launches
#else
  const bool known = d.sm != 0;
#endif
  if (!known) {
    d.sm = 10 * attribute(cudaDevAttrComputeCapabilityMajor, current) +
           attribute(cudaDevAttrComputeCapabilityMinor, current);
  }
  return d;
}

}  // namespace gpu

const char* last_error() {
  return t_error;
}

int32_t device_count(const char** reason) {
  int count = 0;
  const Status status = gpu::check(cudaGetDeviceCount(&count));
  if (status != Status::kOk) count = 0;
  if (reason != nullptr)
    *reason = status != Status::kOk ? t_error : count == 0 ? "there is no CUDA device" : "";
  return count;
}

Status device_properties(int32_t device, DeviceProperties* properties) {
  *properties = DeviceProperties{};
  cudaDeviceProp prop{};
  if (const Status s = gpu::check(cudaGetDeviceProperties(&prop, device)); s != Status::kOk) return s;
  std::snprintf(properties->name, sizeof(properties->name), "%s", prop.name);
  properties->compute_capability = 10 * prop.major + prop.minor;
  properties->multiprocessors = prop.multiProcessorCount;
  int previous = 0;
  if (const Status s = gpu::check(cudaGetDevice(&previous)); s != Status::kOk) return s;
  if (const Status s = gpu::check(cudaSetDevice(device)); s != Status::kOk) return s;
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  const Status memory = gpu::check(cudaMemGetInfo(&free_bytes, &total_bytes));
  if (const Status s = gpu::check(cudaSetDevice(previous)); s != Status::kOk) return s;
  if (memory != Status::kOk) return memory;
  properties->free_bytes = static_cast<int64_t>(free_bytes);
  properties->total_bytes = static_cast<int64_t>(total_bytes);
  if (const Status s = gpu::check(cudaDriverGetVersion(&properties->driver_version)); s != Status::kOk)
    return s;
  if (const Status s = gpu::check(cudaRuntimeGetVersion(&properties->runtime_version)); s != Status::kOk)
    return s;
#if defined(TT_CUDA_HOST)
  properties->host_execution = true;
#endif
  return Status::kOk;
}

Status select_device(int32_t device) {
  return gpu::check(cudaSetDevice(device));
}

Status allocate(void** p, size_t bytes) {
  *p = nullptr;
  return bytes == 0 ? Status::kOk : gpu::check(cudaMalloc(p, bytes));
}

Status release(void* p) {
  return p == nullptr ? Status::kOk : gpu::check(cudaFree(p));
}

Status allocate_pinned(void** p, size_t bytes) {
  *p = nullptr;
  return bytes == 0 ? Status::kOk : gpu::check(cudaMallocHost(p, bytes));
}

Status release_pinned(void* p) {
  return p == nullptr ? Status::kOk : gpu::check(cudaFreeHost(p));
}

Status allocate_managed(void** p, size_t bytes) {
  *p = nullptr;
  return bytes == 0 ? Status::kOk : gpu::check(cudaMallocManaged(p, bytes, cudaMemAttachGlobal));
}

Status copy_to_device(void* device, const void* host, size_t bytes, void* stream) {
  if (bytes == 0) return Status::kOk;
  return gpu::check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, as_stream(stream)));
}

Status copy_to_host(void* host, const void* device, size_t bytes, void* stream) {
  if (bytes == 0) return Status::kOk;
  return gpu::check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, as_stream(stream)));
}

Status copy_on_device(void* to, const void* from, size_t bytes, void* stream) {
  if (bytes == 0) return Status::kOk;
  return gpu::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, as_stream(stream)));
}

Status fill_bytes(void* device, int32_t byte, size_t bytes, void* stream) {
  if (bytes == 0) return Status::kOk;
  return gpu::check(cudaMemsetAsync(device, byte, bytes, as_stream(stream)));
}

Status create_stream(void** stream) {
  cudaStream_t made = nullptr;
  const Status s = gpu::check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
  *stream = made;
  return s;
}

Status destroy_stream(void* stream) {
  return stream == nullptr ? Status::kOk : gpu::check(cudaStreamDestroy(as_stream(stream)));
}

Status synchronize(void* stream) {
  return gpu::check(cudaStreamSynchronize(as_stream(stream)));
}

Status begin_capture(void* stream) {
  return gpu::check(cudaStreamBeginCapture(as_stream(stream), cudaStreamCaptureModeThreadLocal));
}

Status end_capture(void* stream, void** graph) {
  *graph = nullptr;
  cudaGraph_t recorded = nullptr;
  if (const Status s = gpu::check(cudaStreamEndCapture(as_stream(stream), &recorded)); s != Status::kOk)
    return s;
  cudaGraphExec_t ready = nullptr;
  const Status s = gpu::check(cudaGraphInstantiate(&ready, recorded, 0));
  (void)cudaGraphDestroy(recorded);
  *graph = ready;
  return s;
}

Status launch_graph(void* graph, void* stream) {
  return gpu::check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), as_stream(stream)));
}

Status destroy_graph(void* graph) {
  return graph == nullptr ? Status::kOk
                          : gpu::check(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)));
}

Status create_event(void** event) {
  cudaEvent_t made = nullptr;
  const Status s = gpu::check(cudaEventCreate(&made));
  *event = made;
  return s;
}

Status destroy_event(void* event) {
  return event == nullptr ? Status::kOk : gpu::check(cudaEventDestroy(static_cast<cudaEvent_t>(event)));
}

Status record_event(void* event, void* stream) {
  return gpu::check(cudaEventRecord(static_cast<cudaEvent_t>(event), as_stream(stream)));
}

Status elapsed_ms(void* start, void* stop, float* ms) {
  *ms = 0.0f;
  if (const Status s = gpu::check(cudaEventSynchronize(static_cast<cudaEvent_t>(stop))); s != Status::kOk)
    return s;
  return gpu::check(
      cudaEventElapsedTime(ms, static_cast<cudaEvent_t>(start), static_cast<cudaEvent_t>(stop)));
}

}  // namespace trimtok::cuda
