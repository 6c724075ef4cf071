// What kernels may use beyond plain CUDA C++: the one header of kernels/cuda/*.cu. nvcc sees the real thing;
// a C++ compiler sees the same names over kernels/cuda_host, which runs the very same sources on the host.
//
// Rules that keep both true:
//  - shared memory by GPU_SHARED and GPU_DYN_SHARED, launches by gpu::launch, inline PTX only in this file;
//  - sm_80-class instructions (mma.sync, ldmatrix, cp.async); what sm_75 lacks falls back here or is kept
//  from
//    it by launch code (device().sm); no cooperative groups, no __activemask, no waiting for another block;
//  - results must not depend on the order in which threads and blocks run: no float atomics.
#pragma once

#include <cstdint>

#include "trimtok/kernels.h"

#if defined(__CUDACC__)
#include "kernels/cuda/gpu_device.h"
#else
#include "kernels/cuda/gpu_host.h"
#endif

namespace trimtok::cuda::gpu {

// What launch code asks about the current device; cached.
struct Device {
  int32_t sm = 0;  // 75, 80, 86, ...
};
const Device& device();

// Turns a CUDA result into a Status and keeps its text for last_error().
Status check(cudaError_t result);
// Same, for a failure that this library found: a text of the caller's.
Status fail(Status status, const char* text);

// Rounded up quotient, for grids.
constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// launch(kernel, grid, block, dynamic shared bytes, ctx.stream, arguments...) is in both gpu_*.h: it converts
// every argument to the kernel's parameter type, opts in to large shared memory, and returns the Status of
// the launch. An empty grid is kOk and runs nothing.

}  // namespace trimtok::cuda::gpu
