// Attention of many rows (towers, prefill) on tensor cores, flash style: scores never leave registers.
//
// A block of four warps owns kRows rows of one head, a warp 16 of them, and walks over the keys that any of
// them sees, kKeys at a time. q (times scale), keys, weights and values are rounded to f16, sums are f32: an
// error of 2^-11 of each factor. Shared: q, keys and values as f16, (kRows + 2 kKeys) (kDim + 8) 2 bytes.
// Bytes: q and out once, k and v once per kRows rows and query head (the heads of a group meet in L2); FLOPs:
// 4 E per row and key of every tile that the block looks at.
//
// Keys that no row of the block sees count as zeros whatever they hold. A NaN in a key that one row sees
// makes those rows of its tile of 16 NaN that share the instruction.
#include "kernels/cuda/attention.cuh"

namespace trimtok::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = 64;
constexpr float kLog2E = 1.44269504f;

struct Eights {
  bool q;
  bool k;
  bool v;
};

__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  const __half2 h = __floats2half2_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &h, sizeof(bits));
  return bits;
}

__device__ __forceinline__ void store_eight(uint16_t* to, const float (&v)[8]) {
  *reinterpret_cast<uint4*>(to) =
      make_uint4(pack_f16(v[0], v[1]), pack_f16(v[2], v[3]), pack_f16(v[4], v[5]), pack_f16(v[6], v[7]));
}

// What the rows of a block see: the union, and what all of them see.
struct Window {
  int64_t low;
  int64_t high;
  int64_t all_low;
  int64_t all_high;
};

__device__ __forceinline__ Window window_of(const AttentionArgs& a, int64_t t0) {
  const int64_t n = a.q.rows - t0 < kRows ? a.q.rows - t0 : kRows;
  Window w{a.k.rows, 0, 0, a.k.rows};
  for (int64_t i = threadIdx.x % kWarp; i < n; i += kWarp) {
    const Interval seen = interval_of(a, t0 + i);
    if (seen.begin < seen.end) {
      w.low = min(w.low, seen.begin);
      w.high = max(w.high, seen.end);
    }
    w.all_low = max(w.all_low, seen.begin);
    w.all_high = min(w.all_high, seen.end);
  }
#pragma unroll
  for (int o = kWarp / 2; o > 0; o /= 2) {
    w.low = min(w.low, __shfl_xor_sync(kAllLanes, w.low, o));
    w.high = max(w.high, __shfl_xor_sync(kAllLanes, w.high, o));
    w.all_low = max(w.all_low, __shfl_xor_sync(kAllLanes, w.all_low, o));
    w.all_high = min(w.all_high, __shfl_xor_sync(kAllLanes, w.all_high, o));
  }
  return w;
}

// Blocks that a multiprocessor should hold at once; it has registers for as many.
constexpr int blocks_wanted(int dim) {
  return dim <= 80 ? 3 : 2;
}

template <int kDim, int kKeys>
__global__ void __launch_bounds__(kThreads, blocks_wanted(kDim))
    attention_many_kernel(AttentionArgs a, Eights eights) {
  constexpr int kStride = kDim + 8;  // elements between rows in shared memory: ldmatrix without conflicts
  constexpr int kUnits = kDim / 8;
  GPU_DYN_SHARED(uint16_t, shared);
  GPU_SHARED(unsigned char, seen_by_any, [kKeys]);
  uint16_t* sq = shared;
  uint16_t* sk = sq + kRows * kStride;
  uint16_t* sv = sk + kKeys * kStride;
  const auto tid = static_cast<int>(threadIdx.x);
  const int lane = tid % kWarp;
  const int warp = tid / kWarp;
  const int64_t t0 = static_cast<int64_t>(blockIdx.x) * kRows;
  const int64_t head = blockIdx.y;
  const int64_t kv_head = head / (a.n_heads / a.n_kv_heads);
  const int dim = a.head_dim;

  for (int u = tid; u < kRows * kUnits; u += kThreads) {
    const int row = u / kUnits;
    const int d = u % kUnits * 8;
    float v[8] = {};
    if (t0 + row < a.q.rows && d < dim) {
      stored_eight(Dtype::kF32, head_slice(a.q, t0 + row, head, dim), d, dim, eights.q, v);
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] *= a.scale;
    store_eight(sq + row * kStride + d, v);
  }
  const Window window = window_of(a, t0);

  // This thread's two rows.
  int64_t begin[2];
  int64_t end[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t t = t0 + warp * 16 + lane / 4 + 8 * h;
    const Interval seen = t < a.q.rows ? interval_of(a, t) : Interval{0, 0, true};
    begin[h] = seen.begin;
    end[h] = seen.end;
  }
  const float minus_infinity = __int_as_float(0xff800000);
  float out[kDim / 8][4] = {};
  float top[2] = {minus_infinity, minus_infinity};
  float total[2] = {};
  for (int64_t s0 = window.low; s0 < window.high; s0 += kKeys) {
    const bool all_seen = s0 >= window.all_low && s0 + kKeys <= window.all_high;
    if (!all_seen && tid < kKeys) {
      bool seen = false;
      for (int i = 0; i < kRows && t0 + i < a.q.rows; ++i) {
        const Interval interval = interval_of(a, t0 + i);
        seen = seen || (s0 + tid >= interval.begin && s0 + tid < interval.end);
      }
      seen_by_any[tid] = seen;
    }
    __syncthreads();  // also: nobody is at the keys and values of the round before
    for (int u = tid; u < kKeys * kUnits; u += kThreads) {
      const int key = u / kUnits;
      const int d = u % kUnits * 8;
      float k[8] = {};
      float v[8] = {};
      if (d < dim && (all_seen || seen_by_any[key])) {
        stored_eight(a.k.dtype, head_slice(a.k, s0 + key, kv_head, dim), d, dim, eights.k, k);
        stored_eight(a.v.dtype, head_slice(a.v, s0 + key, kv_head, dim), d, dim, eights.v, v);
      }
      store_eight(sk + key * kStride + d, k);
      store_eight(sv + key * kStride + d, v);
    }
    __syncthreads();

    float score[kKeys / 8][4] = {};
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      uint32_t fq[4];
      gpu::ldmatrix_x4(fq, sq + (warp * 16 + lane % 16) * kStride + d + lane / 16 * 8);
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) {
        uint32_t r[4];
        gpu::ldmatrix_x4(r, sk + (j * 16 + lane % 8 + lane / 16 * 8) * kStride + d + lane / 8 % 2 * 8);
        const uint32_t b0[2] = {r[0], r[1]};
        const uint32_t b1[2] = {r[2], r[3]};
        gpu::mma_f16(score[2 * j], fq, b0);
        gpu::mma_f16(score[2 * j + 1], fq, b1);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float new_top = top[h];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = score[j][2 * h + e];
          const int64_t s = s0 + j * 8 + lane % 4 * 2 + e;
          x = all_seen || (s >= begin[h] && s < end[h]) ? capped(x, a.softcap) * kLog2E : minus_infinity;
          new_top = fmaxf(new_top, x);
        }
      }
      new_top = fmaxf(new_top, __shfl_xor_sync(kAllLanes, new_top, 1));
      new_top = fmaxf(new_top, __shfl_xor_sync(kAllLanes, new_top, 2));
      const bool any = new_top > minus_infinity;
      const float scale = any ? exp2f(top[h] - new_top) : 1.0f;
      const float base = any ? new_top : 0.0f;
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = score[j][2 * h + e];
          x = exp2f(x - base);
          sum += x;
        }
      }
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      total[h] = total[h] * scale + sum;
      top[h] = new_top;
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        out[j][2 * h] *= scale;
        out[j][2 * h + 1] *= scale;
      }
    }
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {  // the scores' layout is that of a first factor
      uint32_t weights[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[i] = pack_f16(score[2 * k + i / 2][i % 2 * 2], score[2 * k + i / 2][i % 2 * 2 + 1]);
      }
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t r[4];
        gpu::ldmatrix_x4_trans(r, sv + (k * 16 + lane % 16) * kStride + d * 16 + lane / 16 * 8);
        const uint32_t b0[2] = {r[0], r[1]};
        const uint32_t b1[2] = {r[2], r[3]};
        gpu::mma_f16(out[2 * d], weights, b0);
        gpu::mma_f16(out[2 * d + 1], weights, b1);
      }
    }
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t t = t0 + warp * 16 + lane / 4 + 8 * h;
    if (t >= a.q.rows) continue;
    const bool sane = interval_of(a, t).sane;
    float* to = row_of<float>(a.out, t) + head * dim;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int d = j * 8 + lane % 4 * 2 + e;
        // No key seen: zeros. A NaN sum stays one.
        const float v = total[h] == 0.0f ? 0.0f : out[j][2 * h + e] / total[h];
        if (d < dim) to[d] = sane ? v : quiet_nan();
      }
    }
  }
}

template <int kDim, int kKeys>
Status run(const ExecContext& ctx, const AttentionArgs& a, dim3 grid, const Eights& eights) {
  constexpr size_t kShared = sizeof(uint16_t) * (kRows + 2 * kKeys) * (kDim + 8);
  return gpu::launch(attention_many_kernel<kDim, kKeys>, grid, dim3(kThreads), kShared, ctx.stream, a,
                     eights);
}

}  // namespace

Status attention_many(const ExecContext& ctx, const AttentionArgs& a) {
  const int64_t tiles = gpu::ceil_div(a.q.rows, kRows);
  if (tiles > 0x7fffffff || a.n_heads > 65535) {
    return gpu::fail(Status::kUnsupported, "attention: more rows or heads than one launch holds");
  }
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(a.n_heads));
  const Eights eights{stored_in_eights(a.q, a.head_dim), stored_in_eights(a.k, a.head_dim),
                      stored_in_eights(a.v, a.head_dim)};
  if (a.head_dim <= 32) return run<32, 64>(ctx, a, grid, eights);
  if (a.head_dim <= 64) return run<64, 64>(ctx, a, grid, eights);
  if (a.head_dim <= 80) return run<80, 64>(ctx, a, grid, eights);
  if (a.head_dim <= 96) return run<96, 64>(ctx, a, grid, eights);
  if (a.head_dim <= 128) return run<128, 64>(ctx, a, grid, eights);
  if (a.head_dim <= 192) return run<192, 32>(ctx, a, grid, eights);
  return run<256, 32>(ctx, a, grid, eights);
}

}  // namespace trimtok::cuda
