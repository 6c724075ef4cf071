// The part of the CUDA runtime API that the project uses, over the modelled device: NVIDIA's declarations,
// our definitions. Work runs when it is submitted; a stream that is being captured records it instead. As in
// CUDA's thread-local mode, what a graph cannot hold is refused to the thread that captures, and spoils the
// capture: memory that is allocated or freed, waiting, copies of host memory that is not page-locked.
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>
#include <vector>

#include "kernels/cuda_host/machine.h"
#include "kernels/cuda_host/memory.h"

using Work = std::vector<std::function<void()>>;

struct CUstream_st {
  bool capturing = false;
  bool spoiled = false;  // the capture, which then ends in an error
  Work recorded;
};
struct CUgraph_st {
  Work work;
};
struct CUgraphExec_st {
  Work work;
};
struct CUevent_st {
  std::chrono::steady_clock::time_point time;
};

namespace cuda_host {
namespace {

thread_local cudaError_t t_last_error = cudaSuccess;
thread_local std::string t_report;               // of the kernel that failed last
thread_local cudaStream_t t_captured = nullptr;  // by this thread; one at a time
std::map<const char*, size_t> g_page_locked;     // under device_mutex()

cudaError_t result(cudaError_t e) {
  if (e != cudaSuccess) t_last_error = e;
  return e;
}

// Whether this thread captures, which what it asks for now spoils.
bool spoils_capture() {
  if (t_captured == nullptr) return false;
  t_captured->spoiled = true;
  return true;
}

bool is_page_locked(const void* p, size_t bytes) {
  const DeviceLock lock(device_mutex());
  const auto* at = static_cast<const char*>(p);
  auto next = g_page_locked.upper_bound(at);
  if (next == g_page_locked.begin()) return false;
  --next;
  return at + bytes <= next->first + next->second;
}

void put(cudaStream_t stream, std::function<void()> work) {
  if (stream != nullptr && stream->capturing) {
    stream->recorded.push_back(std::move(work));
  } else {
    work();
  }
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (to_device != is_device_range(to, bytes) || from_device != is_device_range(from, bytes)) {
    if (kind != cudaMemcpyDefault) return result(cudaErrorInvalidValue);
  }
  if (!range_is_sound(to, bytes) || !range_is_sound(from, bytes)) return result(cudaErrorInvalidValue);
  if (stream != nullptr && stream->capturing &&
      ((!to_device && !is_page_locked(to, bytes)) || (!from_device && !is_page_locked(from, bytes)))) {
    stream->spoiled = true;
    return result(cudaErrorStreamCaptureUnsupported);
  }
  put(stream, [=] {
    const DeviceAccess access;
    std::memmove(to, from, bytes);
  });
  return cudaSuccess;
}

}  // namespace

void submit(void* stream, dim3 grid, dim3 block, size_t dynamic_shared, std::function<void()> body) {
  bool inside = false;
  {
    const DeviceLock lock(device_mutex());
    inside =
        g_thread != nullptr;  // only ever true for the thread that runs the kernel: the others wait above
  }
  if (inside) fail("a launch inside a kernel");
  put(static_cast<cudaStream_t>(stream), [=, kernel = std::move(body)] {
    const DeviceLock inner(device_mutex());  // a graph runs this later
    run_grid(grid, block, dynamic_shared, kernel);
  });
}

}  // namespace cuda_host

using cuda_host::options;
using cuda_host::result;
using cuda_host::spoils_capture;
using cuda_host::t_captured;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return result(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* prop, int device) {
  if (device != 0) return result(cudaErrorInvalidDevice);
  *prop = cudaDeviceProp{};
  std::snprintf(prop->name, sizeof(prop->name), "host execution of sm_%d", options().sm);
  prop->major = options().sm / 10;
  prop->minor = options().sm % 10;
  prop->multiProcessorCount = 4;
  prop->totalGlobalMem = options().device_bytes;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return result(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;  // small, so that test sizes take several waves
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(cuda_host::shared_limit());
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = 4 << 20;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = options().sm / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = options().sm % 10;
      return cudaSuccess;
    default:
      return result(cudaErrorInvalidValue);
  }
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *total = options().device_bytes;
  *free_bytes = *total - cuda_host::device_bytes_used();
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  if (spoils_capture()) return result(cudaErrorStreamCaptureUnsupported);
  *p = cuda_host::device_allocate(bytes);
  return result(*p == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}
cudaError_t cudaFree(void* p) {
  if (spoils_capture()) return result(cudaErrorStreamCaptureUnsupported);
  return result(p == nullptr || cuda_host::device_release(p) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMallocHost(void** p, size_t bytes) {
  if (spoils_capture()) return result(cudaErrorStreamCaptureUnsupported);
  *p = std::malloc(bytes);
  if (*p == nullptr) return result(cudaErrorMemoryAllocation);
  const cuda_host::DeviceLock lock(cuda_host::device_mutex());
  cuda_host::g_page_locked[static_cast<const char*>(*p)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  if (spoils_capture()) return result(cudaErrorStreamCaptureUnsupported);
  const cuda_host::DeviceLock lock(cuda_host::device_mutex());
  if (p != nullptr && cuda_host::g_page_locked.erase(static_cast<const char*>(p)) == 0) {
    return result(cudaErrorInvalidValue);
  }
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaMallocManaged(void** p, size_t bytes, unsigned) {
  return cudaMalloc(p, bytes);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cuda_host::copy(to, from, bytes, kind, stream);
}
cudaError_t cudaMemsetAsync(void* p, int byte, size_t bytes, cudaStream_t stream) {
  if (!cuda_host::range_is_sound(p, bytes)) return result(cudaErrorInvalidValue);
  cuda_host::put(stream, [=] {
    const cuda_host::DeviceAccess access;
    std::memset(p, byte, bytes);
  });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (t_captured == stream) t_captured = nullptr;
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == nullptr || !stream->capturing) return cudaSuccess;
  stream->spoiled = true;
  return result(cudaErrorStreamCaptureUnsupported);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream->capturing || t_captured != nullptr) {
    return result(cudaErrorStreamCaptureUnsupported);
  }
  t_captured = stream;
  stream->capturing = true;
  stream->spoiled = false;
  stream->recorded.clear();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream == nullptr || !stream->capturing) return result(cudaErrorIllegalState);
  if (t_captured != stream) return result(cudaErrorStreamCaptureWrongThread);
  t_captured = nullptr;
  stream->capturing = false;
  Work recorded = std::exchange(stream->recorded, {});
  if (stream->spoiled) return result(cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st{std::move(recorded)};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  *ready = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  if (stream != nullptr && stream->capturing) return result(cudaErrorStreamCaptureUnsupported);
  try {
    for (const auto& work : graph->work) work();
  } catch (const cuda_host::Error& error) {
    cuda_host::t_report = error.what();
    return result(cudaErrorLaunchFailure);
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  cuda_host::put(stream, [event] { event->time = std::chrono::steady_clock::now(); });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t stop) {
  *ms = std::chrono::duration<float, std::milli>(stop->time - start->time).count();
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t e = cuda_host::t_last_error;
  cuda_host::t_last_error = cudaSuccess;
  return e;
}
const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
    default:
      return "an error";
  }
}
const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaErrorMemoryAllocation:
      return "the modelled device is out of memory";
    case cudaErrorLaunchFailure:
      return cuda_host::t_report.c_str();
    case cudaErrorStreamCaptureUnsupported:
      return "a graph cannot hold this, and the capture is spoiled";
    case cudaErrorStreamCaptureInvalidated:
      return "the capture was spoiled by what a graph cannot hold";
    default:
      return "see kernels/cuda_host";
  }
}

}  // extern "C"
