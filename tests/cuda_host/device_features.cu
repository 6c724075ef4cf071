#include "device_features.h"

#include "kernels/cuda/gpu.h"

namespace trimtok::cuda::features {
namespace {

constexpr unsigned kAll = 0xffffffffu;

__global__ void votes_kernel(int32_t* out) {
  const int t = static_cast<int>(threadIdx.x);
  const int lane = t % 32;
  int32_t* o = out + t * kVotes;
  o[0] = static_cast<int32_t>(__ballot_sync(kAll, lane & 1));
  o[1] = __any_sync(kAll, lane == 7);
  o[2] = __all_sync(kAll, lane < 31);
  o[3] = __shfl_up_sync(kAll, t, 3);
  o[4] = __shfl_down_sync(kAll, t, 5, 8);
  o[5] = __shfl_sync(kAll, t, 2, 16);
  o[6] = __shfl_xor_sync(kAll, t, 9);
  if (lane < 16) {  // two halves of a warp, each with a shuffle of its own
    o[7] = __shfl_xor_sync(0xffffu, lane, 2);
  } else {
    o[7] = -__shfl_xor_sync(0xffff0000u, lane, 4);
  }
  o[8] = __syncthreads_count(t < 40);
  o[9] = __syncthreads_or(t == 63);
  o[10] = __syncthreads_and(t < 63);
  o[11] = static_cast<int32_t>(__shfl_sync(kAll, 1000000000000.0 + t, 4) - 1000000000000.0);
}

__global__ void atomics_kernel(Atomics* out) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  atomicMax(&out->largest, i * 37 % 101);
  atomicAdd(&out->count, 1u);
  atomicCAS(&out->first, 0, i + 1);
  atomicOr(&out->bits, 1u << (i % 32));
}

__global__ void halves_kernel(float* out) {
  const __half2 a = __floats2half2_rn(1.5f, -2.0f);
  const __half2 b = __hfma2(a, a, a);
  out[0] = __low2float(b);
  out[1] = __high2float(b);
  out[2] = __bfloat162float(__float2bfloat16(3.14159f));
}

__global__ void unwritten_kernel(float* out) {
  GPU_SHARED(float, values, [64]);
  if (threadIdx.x == 0) values[0] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void integer_dots_kernel(int32_t* out) {
  out[0] =
      __dp4a(static_cast<int>(0x7f80ff01u), static_cast<int>(0x02020202u), 5);  // 2 (127 - 128 - 1 + 1) + 5
  out[1] = static_cast<int32_t>(__byte_perm(0x33221100u, 0x77665544u, 0x7410u));
  out[2] = static_cast<int32_t>(__byte_perm(0x000000ffu, 0x00000000u, 0x8888u));
}

__global__ void mma_kernel(Mma kind, const uint32_t* a, const uint32_t* b, uint32_t* d) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t fa[4];
  uint32_t fb[2];
  for (int i = 0; i < 4; ++i) fa[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) fb[i] = b[lane * 2 + i];
  if (kind == Mma::kS8 || kind == Mma::kS8K16) {
    int32_t sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = static_cast<int32_t>(d[lane * 4 + i]);
    if (kind == Mma::kS8) gpu::mma_s8(sums, fa, fb);
    if (kind == Mma::kS8K16) gpu::mma_s8_k16(sums, fa[0], fa[1], fb[0]);
    for (int i = 0; i < 4; ++i) d[lane * 4 + i] = static_cast<uint32_t>(sums[i]);
    return;
  }
  float sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = __uint_as_float(d[lane * 4 + i]);
  if (kind == Mma::kF16) gpu::mma_f16(sums, fa, fb);
  if (kind == Mma::kBf16) gpu::mma_bf16(sums, fa, fb);
  if (kind == Mma::kTf32) gpu::mma_tf32(sums, fa, fb);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = __float_as_uint(sums[i]);
}

__global__ void matrices_kernel(const uint16_t* in, uint32_t* out, bool transposed) {
  GPU_SHARED(uint16_t, tile, [4][8][8]);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 8; ++i) tile[lane / 8][lane % 8][i] = in[lane * 8 + i];
  __syncthreads();
  uint32_t r[4];
  if (transposed) {
    gpu::ldmatrix_x4_trans(r, &tile[lane / 8][lane % 8][0]);
  } else {
    gpu::ldmatrix_x4(r, &tile[lane / 8][lane % 8][0]);
  }
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = r[i];
}

__global__ void add_one_kernel(int32_t* x, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) x[i] += 1;
}

__global__ void much_shared_kernel(float* out) {
  GPU_SHARED(float, values, [40000]);
  values[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void nothing_kernel() {}

__global__ void split_masks_kernel(int32_t* out) {
  if (threadIdx.x < 16) {
    __syncwarp();
  } else {
    __syncwarp(0xffff0000u);
  }
  out[threadIdx.x] = 1;
}

}  // namespace

Status votes(int32_t* out, int32_t threads, void* stream) {
  return gpu::launch(votes_kernel, dim3(1), dim3(static_cast<unsigned>(threads)), 0, stream, out);
}

Status atomics(Atomics* out, int32_t blocks, int32_t threads, void* stream) {
  return gpu::launch(atomics_kernel, dim3(static_cast<unsigned>(blocks)),
                     dim3(static_cast<unsigned>(threads)), 0, stream, out);
}

Status halves(float* out, void* stream) {
  return gpu::launch(halves_kernel, dim3(1), dim3(1), 0, stream, out);
}

Status unwritten_shared(float* out, void* stream) {
  return gpu::launch(unwritten_kernel, dim3(1), dim3(64), 0, stream, out);
}

Status integer_dots(int32_t* out, void* stream) {
  return gpu::launch(integer_dots_kernel, dim3(1), dim3(1), 0, stream, out);
}

Status mma(Mma kind, const uint32_t* a, const uint32_t* b, uint32_t* d, void* stream) {
  return gpu::launch(mma_kernel, dim3(1), dim3(32), 0, stream, kind, a, b, d);
}

Status matrices(const uint16_t* in, uint32_t* out, bool transposed, void* stream) {
  return gpu::launch(matrices_kernel, dim3(1), dim3(32), 0, stream, in, out, transposed);
}

Status add_one(int32_t* x, int32_t n, void* stream) {
  return gpu::launch(add_one_kernel, dim3(static_cast<unsigned>(gpu::ceil_div(n, 64))), dim3(64), 0, stream,
                     x, n);
}

Status too_many_threads(void* stream) {
  return gpu::launch(nothing_kernel, dim3(1), dim3(2000), 0, stream);
}

Status too_much_shared(void* stream) {
  return gpu::launch(much_shared_kernel, dim3(1), dim3(32), 0, stream, static_cast<float*>(nullptr));
}

Status split_masks(int32_t* out, void* stream) {
  return gpu::launch(split_masks_kernel, dim3(1), dim3(32), 0, stream, out);
}

}  // namespace trimtok::cuda::features
