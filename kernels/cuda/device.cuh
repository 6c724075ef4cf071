// What several kernels share: rows of a matrix, whole-vector access, reductions, activations, row launches.
#pragma once

#include "kernels/check.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/ops.h"

namespace trimtok::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

template <typename T>
__device__ __forceinline__ T* row_of(const Matrix& m, int64_t r) {
  return reinterpret_cast<T*>(static_cast<char*>(m.data) + r * m.stride);
}
template <typename T>
__device__ __forceinline__ const T* row_of(const ConstMatrix& m, int64_t r) {
  return reinterpret_cast<const T*>(static_cast<const char*>(m.data) + r * m.stride);
}

__device__ __forceinline__ float quiet_nan() {
  return __int_as_float(0x7fc00000);
}

// ---- Access in packs of kPack consecutive floats: one 16-byte instruction where kPack is 4. ----

template <int kPack>
struct Pack {
  float v[kPack];
};

template <int kPack>
__device__ __forceinline__ Pack<kPack> load_pack(const float* p) {
  Pack<kPack> r;
  if constexpr (kPack == 4) {
    const float4 q = *reinterpret_cast<const float4*>(p);
    r.v[0] = q.x;
    r.v[1] = q.y;
    r.v[2] = q.z;
    r.v[3] = q.w;
  } else {
    r.v[0] = *p;
  }
  return r;
}

template <int kPack>
__device__ __forceinline__ void store_pack(float* p, const Pack<kPack>& r) {
  if constexpr (kPack == 4) {
    *reinterpret_cast<float4*>(p) = make_float4(r.v[0], r.v[1], r.v[2], r.v[3]);
  } else {
    *p = r.v[0];
  }
}

// Whether every row starts at a multiple of `bytes`.
inline bool rows_aligned(const ConstMatrix& m, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(m.data) % static_cast<size_t>(bytes) == 0 && m.stride % bytes == 0;
}
// Whether f32 rows can be walked in packs of four.
inline bool in_packs(const ConstMatrix& m) {
  return m.cols % 4 == 0 && rows_aligned(m, 16);
}
inline bool in_packs(const float* vector) {  // null: nothing will be read
  return reinterpret_cast<uintptr_t>(vector) % 16 == 0;
}

// Two floats as the f16 of an mma's fragment, the first in the low half.
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  const __half2 h = __floats2half2_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &h, sizeof(bits));
  return bits;
}

// ---- Reductions. Every thread gets the result; the order of the sum is fixed. ----

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int o = kWarp / 2; o > 0; o /= 2) v += __shfl_xor_sync(kAllLanes, v, o);
  return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int o = kWarp / 2; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, o));
  return v;
}

// Over a block of whole warps; slots: shared, one float a warp. May be called again at once.
__device__ __forceinline__ float block_sum(float v, float* slots) {
  v = warp_sum(v);
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = v;
  __syncthreads();
  float sum = 0.0f;
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) sum += slots[w];
  __syncthreads();
  return sum;
}
__device__ __forceinline__ float block_max(float v, float* slots) {
  v = warp_max(v);
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = v;
  __syncthreads();
  float high = slots[0];
  for (unsigned w = 1; w < blockDim.x / kWarp; ++w) high = fmaxf(high, slots[w]);
  __syncthreads();
  return high;
}

// ---- Activations. ----

__device__ __forceinline__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

__device__ __forceinline__ float activate(Activation act, float x) {
  switch (act) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:  // (1 + tanh u) / 2 is sigmoid(2 u), which does not cancel for negative u
      return x * sigmoid(1.59576912f * fmaf(0.044715f * x, x * x, x));
    case Activation::kGeluErf:  // erfc does not cancel either
      return 0.5f * x * erfcf(-0.707106781f * x);
    case Activation::kQuickGelu:
      return x * sigmoid(1.702f * x);
    case Activation::kSilu:
      return x * sigmoid(x);
  }
  return quiet_nan();
}

// ---- One block a row (blockIdx.x); columns by threads, and by blockIdx.y where `chunks` > 1. ----

// Whole warps, at most `most` threads, for rows of n units of work.
inline unsigned row_threads(int64_t n, unsigned most) {
  const int64_t rounded = gpu::ceil_div(n, kWarp) * kWarp;
  return rounded < kWarp ? kWarp : rounded > most ? most : static_cast<unsigned>(rounded);
}

template <typename... Params, typename... Args>
Status launch_rows(void (*kernel)(Params...), int64_t rows, int64_t chunks, unsigned threads, size_t shared,
                   const ExecContext& ctx, Args&&... args) {
  if (rows == 0 || chunks == 0) return Status::kOk;
  if (rows > 0x7fffffff) return gpu::fail(Status::kUnsupported, "more than 2^31 - 1 rows in one launch");
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(chunks < 65535 ? chunks : 65535));
  return gpu::launch(kernel, grid, dim3(threads), shared, ctx.stream, static_cast<Args&&>(args)...);
}

}  // namespace trimtok::cuda
