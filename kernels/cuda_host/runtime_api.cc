// The part of the CUDA runtime API that the project uses, over the modelled device: NVIDIA's declarations,
// our definitions. Work runs when it is submitted; a stream that is being captured records it instead.
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/cuda_host/machine.h"
#include "kernels/cuda_host/memory.h"

using Work = std::vector<std::function<void()>>;

struct CUstream_st {
  bool capturing = false;
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

cudaError_t result(cudaError_t e) {
  if (e != cudaSuccess) t_last_error = e;
  return e;
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
  *p = cuda_host::device_allocate(bytes);
  return result(*p == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}
cudaError_t cudaFree(void* p) {
  return result(p == nullptr || cuda_host::device_release(p) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMallocHost(void** p, size_t bytes) {
  *p = std::malloc(bytes);
  return result(*p == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}
cudaError_t cudaFreeHost(void* p) {
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
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return result(stream != nullptr && stream->capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream->capturing) return result(cudaErrorStreamCaptureUnsupported);
  stream->capturing = true;
  stream->recorded.clear();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream == nullptr || !stream->capturing) return result(cudaErrorIllegalState);
  stream->capturing = false;
  *graph = new CUgraph_st{std::move(stream->recorded)};
  stream->recorded.clear();
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
    std::fprintf(stderr, "cuda_host: a kernel of a graph failed: %s\n", error.what());
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
    default:
      return "an error";
  }
}
const char* cudaGetErrorString(cudaError_t e) {
  return e == cudaErrorMemoryAllocation ? "the modelled device is out of memory" : "see kernels/cuda_host";
}

}  // extern "C"
