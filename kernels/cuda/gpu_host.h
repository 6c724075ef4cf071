// gpu.h as a C++ compiler sees it: the same names over the host execution layer.
#pragma once

#include "kernels/cuda_host/cuda_host.h"

#define GPU_SHARED(T, name, ...) auto& name = ::cuda_host::shared_var<T __VA_ARGS__>([] {}, #name)
#define GPU_DYN_SHARED(T, name) T* name = static_cast<T*>(::cuda_host::dyn_shared())

namespace trimtok::cuda::gpu {

Status check(cudaError_t result);
Status fail(Status status, const char* text);

template <typename... Params, typename... Args>
Status launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, void* stream, Args&&... args) {
  static_assert(sizeof...(Params) == sizeof...(Args));
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return Status::kOk;
  try {
    cuda_host::launch(kernel, grid, block, shared, stream, static_cast<Args&&>(args)...);
  } catch (const cuda_host::Error& error) {
    return fail(Status::kDeviceError, error.what());
  }
  return Status::kOk;
}

inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUDA_HOST_WHERE) {
  cuda_host::mma(cuda_host::MmaKind::f16, d, a, b, file, line);
}
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUDA_HOST_WHERE) {
  cuda_host::mma(cuda_host::MmaKind::bf16, d, a, b, file, line);
}
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUDA_HOST_WHERE) {
  cuda_host::mma(cuda_host::MmaKind::tf32, d, a, b, file, line);
}
inline void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUDA_HOST_WHERE) {
  cuda_host::mma(cuda_host::MmaKind::s8, d, a, b, file, line);
}
inline void mma_s8_k16(int32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, CUDA_HOST_WHERE) {
  const uint32_t a[2] = {a0, a1};
  cuda_host::mma(cuda_host::MmaKind::s8_k16, d, a, &b, file, line);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, CUDA_HOST_WHERE) {
  cuda_host::ldmatrix<4, false>(r, row, file, line);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, CUDA_HOST_WHERE) {
  cuda_host::ldmatrix<4, true>(r, row, file, line);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, CUDA_HOST_WHERE) {
  cuda_host::ldmatrix<2, false>(r, row, file, line);
}
inline void cp_async16(void* dst, const void* src, bool valid) {
  cuda_host::cp_async(dst, src, 16, valid ? 16 : 0);
}
inline void cp_async_commit() {
  cuda_host::cp_async_commit();
}
template <int N>
void cp_async_wait() {
  cuda_host::cp_async_wait(N);
}

}  // namespace trimtok::cuda::gpu
