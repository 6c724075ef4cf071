#include "planted.h"

#include "kernels/cuda/gpu.h"

namespace trimtok::cuda::planted {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// ---- sum ----

__device__ __forceinline__ float warp_sum(float v) {
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(kAll, v, step);
  return v;
}

__global__ void __launch_bounds__(kThreads)
    sum_kernel(const float* x, int n, float* partial, float* out, Bug bug) {
  GPU_SHARED(float, of_warp, [kWarps]);
  GPU_DYN_SHARED(float, copy);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  float v = 0.0f;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x * blockDim.x)) {
    v += x[i];
  }
  v = warp_sum(v);
  const int shift = bug == Bug::kSharedOverrun ? 1 : 0;
  if (lane == 0 && !(bug == Bug::kUninitialised && warp == 1)) of_warp[warp + shift] = v;
  if (lane == 0) copy[warp + (bug == Bug::kDynamicOverrun ? 1 : 0)] = v;
  const bool skips = bug == Bug::kNoBarrier || (bug == Bug::kDivergentBarrier && warp == 1);
  if (!skips) __syncthreads();
  if (warp != 0) return;
  if (bug == Bug::kFullMaskInFewLanes) {
    if (lane < kWarps) v = warp_sum(of_warp[lane]);
  } else {
    v = warp_sum(lane < kWarps ? of_warp[lane] : 0.0f);
  }
  if (lane != 0) return;
  if (bug == Bug::kFloatAtomics) {
    atomicAdd(out, v);
  } else {
    partial[blockIdx.x] = v;
  }
}

__global__ void total_kernel(const float* partial, float* out) {
  float v = 0.0f;
  for (int i = 0; i < kSumBlocks; ++i) v += partial[i];
  *out = v;
}

// ---- gemm: 64 x 64 x 32 tiles, 4 warps of 32 x 32, two cp.async stages ----

constexpr int kTileM = 64;
constexpr int kTileN = 64;
constexpr int kTileK = 32;
constexpr int kPitch = kTileK + 8;

__global__ void __launch_bounds__(kThreads)
    gemm_kernel(const uint16_t* a, const uint16_t* b, float* c, int m, int n, int k, Bug bug) {
  GPU_SHARED(uint16_t, tile_a, [2][kTileM][kPitch]);
  GPU_SHARED(uint16_t, tile_b, [2][kTileN][kPitch]);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int warp_m = warp / 2 * 32;
  const int warp_n = warp % 2 * 32;
  const int m0 = static_cast<int>(blockIdx.y) * kTileM;
  const int n0 = static_cast<int>(blockIdx.x) * kTileN;
  const int steps = (k + kTileK - 1) / kTileK;
  const auto load = [&](int stage, int step) {
    for (int chunk = thread; chunk < kTileM * kTileK / 8; chunk += kThreads) {
      const int row = chunk / 4;
      const int column = chunk % 4 * 8;
      const int from = step * kTileK + column;
      const bool has_a = m0 + row < m && from < k;
      const bool has_b = n0 + row < n && from < k;
      const int odd = bug == Bug::kMisaligned ? 1 : 0;
      gpu::cp_async16(&tile_a[stage][row][column], has_a ? a + (m0 + row) * k + from + odd : a, has_a);
      gpu::cp_async16(&tile_b[stage][row][column], has_b ? b + (n0 + row) * k + from : b, has_b);
    }
    gpu::cp_async_commit();
  };
  float sums[2][4][4] = {};
  load(0, 0);
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      load((step + 1) % 2, step + 1);
      if (bug == Bug::kLaxWait) {
        gpu::cp_async_wait<2>();
      } else {
        gpu::cp_async_wait<1>();
      }
    } else if (bug != Bug::kNoWait) {
      gpu::cp_async_wait<0>();
    }
    __syncthreads();
    const int stage = step % 2;
    for (int kk = 0; kk < kTileK; kk += 16) {
      uint32_t fa[2][4];
      uint32_t fb[4][2];
      for (int i = 0; i < 2; ++i) {
        gpu::ldmatrix_x4(fa[i], &tile_a[stage][warp_m + i * 16 + lane % 16][kk + lane / 16 * 8]);
      }
      for (int j = 0; j < 4; ++j) {
        gpu::ldmatrix_x2(fb[j], &tile_b[stage][warp_n + j * 8 + lane % 8][kk + lane / 8 % 2 * 8]);
      }
      if (bug == Bug::kSwappedLanes) {
        const uint32_t kept = fa[0][1];
        fa[0][1] = fa[0][2];
        fa[0][2] = kept;
      }
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 4; ++j) gpu::mma_f16(sums[i][j], fa[i], fb[j]);
      }
    }
    if (bug != Bug::kNoBarrierAtLoopEnd) __syncthreads();
  }
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 4; ++j) {
      for (int e = 0; e < 4; ++e) {
        const int row = m0 + warp_m + i * 16 + lane / 4 + e / 2 * 8;
        const int column = n0 + warp_n + j * 8 + lane % 4 * 2 + e % 2;
        if ((row < m || bug == Bug::kNoRowCheck) && column < n) c[row * n + column] = sums[i][j][e];
      }
    }
  }
}

// ---- farthest ----

__global__ void __launch_bounds__(kThreads)
    farthest_kernel(const float* x, int n, int d, int count, int* picked, Bug bug) {
  GPU_DYN_SHARED(float, distance);
  GPU_SHARED(float, best_value, [kWarps]);
  GPU_SHARED(int, best_index, [kWarps]);
  GPU_SHARED(int, current, [1]);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) distance[i] = 3.4e38f;
  if (threadIdx.x == 0) {
    picked[0] = 0;
    current[0] = 0;
  }
  __syncthreads();
  for (int pick = 1; pick < count; ++pick) {
    const float* from = x + current[0] * d;
    float value = -1.0f;
    int index = n;
    for (int i = warp; i < n; i += kWarps) {
      float sum = 0.0f;
      for (int j = lane; j < d; j += 32) sum += (x[i * d + j] - from[j]) * (x[i * d + j] - from[j]);
      sum = warp_sum(sum);
      const float nearest = fminf(distance[i], sum);
      __syncwarp();
      if (lane == 0) distance[i] = nearest;
      if (nearest > value) {
        value = nearest;
        index = i;
      }
    }
    if (lane == 0) {
      best_value[warp] = value;
      best_index[warp] = index;
    }
    if (bug == Bug::kBarrierInBranch) {
      if (warp == 0) {
        __syncthreads();
      } else {
        __syncthreads();
      }
    } else if (bug != Bug::kNoBarrierBeforeVote) {
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      for (int w = 0; w < kWarps; ++w) {
        const bool better =
            w == 0 || best_value[w] > value || (best_value[w] == value && best_index[w] < index);
        if (!better) continue;
        value = best_value[w];
        index = best_index[w];
      }
      picked[pick] = index;
      current[0] = index;
    }
    __syncthreads();
  }
}

}  // namespace

const char* name(Bug bug) {
  static const char* const kNames[] = {"none",
                                       "no_barrier",
                                       "shared_overrun",
                                       "divergent_barrier",
                                       "few_lanes",
                                       "float_atomics",
                                       "uninitialised",
                                       "dynamic_overrun",
                                       "swapped_lanes",
                                       "no_loop_barrier",
                                       "lax_wait",
                                       "no_row_check",
                                       "no_wait",
                                       "misaligned",
                                       "no_barrier_before_vote",
                                       "barrier_in_branch"};
  static_assert(sizeof(kNames) / sizeof(kNames[0]) == static_cast<size_t>(Bug::kCount));
  return kNames[static_cast<int32_t>(bug)];
}

Status sum(const float* x, int32_t n, float* partial, float* out, void* stream, Bug bug) {
  const size_t shared = kWarps * sizeof(float);
  const Status s =
      gpu::launch(sum_kernel, dim3(kSumBlocks), dim3(kThreads), shared, stream, x, n, partial, out, bug);
  if (s != Status::kOk || bug == Bug::kFloatAtomics) return s;
  return gpu::launch(total_kernel, dim3(1), dim3(1), 0, stream, partial, out);
}

Status gemm(const uint16_t* a, const uint16_t* b, float* c, int32_t m, int32_t n, int32_t k, void* stream,
            Bug bug) {
  const dim3 grid(static_cast<unsigned>(gpu::ceil_div(n, kTileN)),
                  static_cast<unsigned>(gpu::ceil_div(m, kTileM)));
  return gpu::launch(gemm_kernel, grid, dim3(kThreads), 0, stream, a, b, c, m, n, k, bug);
}

Status farthest(const float* x, int32_t n, int32_t d, int32_t count, int32_t* picked, void* stream, Bug bug) {
  const size_t shared = static_cast<size_t>(n) * sizeof(float);
  return gpu::launch(farthest_kernel, dim3(1), dim3(kThreads), shared, stream, x, n, d, count, picked, bug);
}

}  // namespace trimtok::cuda::planted
