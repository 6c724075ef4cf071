// Attention of many rows (towers, prefill) on tensor cores, flash style: scores never leave registers.
//
// A block of four warps owns kRows rows of one head, a warp 16 of them, and walks over the keys that any of
// them sees, kKeys at a time. q (rotated, times scale), keys, weights and values are rounded to f16, sums are
// f32: an error of 2^-11 of each factor. Shared: q, keys and values as f16, (kRows + 2 kKeys) (kDim + 8) 2
// bytes; keys of the next round travel while this round's values are added up, values while the next keys are
// scored: by cp.async where they are stored as f16 in aligned rows. Bytes: q and out once, k and v once per
// kRows rows and query head (the heads of a group meet in L2); FLOPs: 4 E per row and key of every tile that
// the block looks at.
//
// Keys that no row of the block sees count as zeros whatever they hold. A NaN in a key that one row sees
// makes those rows of its tile of 16 NaN that share the instruction.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/rotate.cuh"

namespace trimtok::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = 64;
constexpr float kLog2E = 1.44269504f;

// What may be loaded 16 bytes at a time.
struct Eights {
  bool q;
  bool k;
  bool v;
  bool pairs;  // of q that are rotated, and their angles: four at a time
};

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

// Elements between rows in shared memory: ldmatrix meets no bank twice.
template <int kDim>
constexpr int kStride = kDim + 8;

__device__ __forceinline__ void store_run(uint16_t* to, const Pack<4>& r) {
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_f16(r.v[0], r.v[1]), pack_f16(r.v[2], r.v[3]));
}
__device__ __forceinline__ void store_run(uint16_t* to, const Pack<1>& r) {
  *to = __half_as_ushort(__float2half_rn(r.v[0]));
}

// The rotated dimensions of the block's rows, kPack pairs at a time; neighbouring threads take neighbouring
// pairs. Twice the bytes of rows that are not rotated: the angles.
template <int kDim, int kPack>
__device__ __forceinline__ void load_rotated(const AttentionArgs& a, int64_t t0, int64_t head, uint16_t* to) {
  const auto units = static_cast<uint32_t>(a.rotation.cos.cols / kPack);
  const auto rows = static_cast<uint32_t>(min(a.q.rows - t0, static_cast<int64_t>(kRows)));
#pragma unroll 4
  for (uint32_t i = threadIdx.x; i < rows * units; i += kThreads) {
    const uint32_t row = i / units;
    const float* q = row_of<float>(a.q, t0 + row) + head * a.head_dim;
    Runs<kPack> runs = rotated_runs<kPack>(a.rotation, t0 + row, q, static_cast<int>(i % units) * kPack);
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      runs.low.v[e] *= a.scale;
      runs.high.v[e] *= a.scale;
    }
    store_run(to + row * kStride<kDim> + runs.low_at, runs.low);
    store_run(to + row * kStride<kDim> + runs.high_at, runs.high);
  }
}

template <int kDim>
__device__ __forceinline__ void load_queries(const AttentionArgs& a, int64_t t0, int64_t head,
                                             const Eights& eights, uint16_t* to) {
  constexpr int kUnits = kDim / 8;
  const int rotated = rotated_dims(a.rotation);
  for (int u = static_cast<int>(threadIdx.x); u < kRows * kUnits; u += kThreads) {
    const int row = u / kUnits;
    const int d = u % kUnits * 8;
    const bool there = t0 + row < a.q.rows && d < a.head_dim;
    if (there && d + 8 <= rotated) continue;
    float v[8] = {};
    if (there) {
      stored_eight(Dtype::kF32, head_slice(a.q, t0 + row, head, a.head_dim), d, a.head_dim, eights.q, v);
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] *= a.scale;
    store_eight(to + row * kStride<kDim> + d, v);
  }
  if (rotated == 0) return;
  __syncthreads();  // where R is no multiple of 8, eight elements have been written of which some are rotated
  if (eights.pairs) {
    load_rotated<kDim, 4>(a, t0, head, to);
  } else {
    load_rotated<kDim, 1>(a, t0, head, to);
  }
}

// Which keys of a round any row of the block sees.
template <int kKeys>
struct Seen {
  bool all;              // every row sees every key, and flags are not looked at
  const uint8_t* flags;  // [kKeys]
};

template <int kKeys>
__device__ __forceinline__ Seen<kKeys> mark_seen(const AttentionArgs& a, int64_t t0, int64_t s0,
                                                 const Window& window, uint8_t* flags) {
  const bool all = s0 >= window.all_low && s0 + kKeys <= window.all_high;
  const auto key = static_cast<int>(threadIdx.x);
  if (!all && key < kKeys) {
    bool seen = false;
    for (int i = 0; i < kRows && t0 + i < a.q.rows; ++i) {
      const Interval interval = interval_of(a, t0 + i);
      seen = seen || (s0 + key >= interval.begin && s0 + key < interval.end);
    }
    flags[key] = seen ? 1 : 0;
  }
  return {all, flags};
}

// Keys or values of a round as f16, zeros where they are not seen; one group of cp.async.
template <int kDim, int kKeys>
__device__ __forceinline__ void load_round(const ConstMatrix& m, const AttentionArgs& a, int64_t s0,
                                           int64_t kv_head, const Seen<kKeys>& seen, bool eights,
                                           uint16_t* to) {
  constexpr int kUnits = kDim / 8;
  const bool direct = eights && m.dtype == Dtype::kF16;
  for (int u = static_cast<int>(threadIdx.x); u < kKeys * kUnits; u += kThreads) {
    const int key = u / kUnits;
    const int d = u % kUnits * 8;
    uint16_t* at = to + key * kStride<kDim> + d;
    const bool there = d < a.head_dim && (seen.all || seen.flags[key] != 0);
    const uint8_t* slice = head_slice(m, there ? s0 + key : 0, kv_head, a.head_dim);
    if (direct) {
      gpu::cp_async16(at, slice + (there ? 2 * d : 0), there);
    } else {
      float v[8] = {};
      if (there) stored_eight(m.dtype, slice, d, a.head_dim, eights, v);
      store_eight(at, v);
    }
  }
  gpu::cp_async_commit();
}

// score = q . k^T of this warp's 16 rows.
template <int kDim, int kKeys>
__device__ __forceinline__ void multiply_keys(const uint16_t* sq, const uint16_t* sk,
                                              float (&score)[kKeys / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (int d = 0; d < kDim; d += 16) {
    uint32_t fq[4];
    gpu::ldmatrix_x4(fq, sq + (warp * 16 + lane % 16) * kStride<kDim> + d + lane / 16 * 8);
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      uint32_t r[4];
      gpu::ldmatrix_x4(r, sk + (j * 16 + lane % 8 + lane / 16 * 8) * kStride<kDim> + d + lane / 8 % 2 * 8);
      const uint32_t b0[2] = {r[0], r[1]};
      const uint32_t b1[2] = {r[2], r[3]};
      gpu::mma_f16(score[2 * j], fq, b0);
      gpu::mma_f16(score[2 * j + 1], fq, b1);
    }
  }
}

// out += weights . v of this warp's 16 rows; the layout of scores is that of a first factor.
template <int kDim, int kKeys>
__device__ __forceinline__ void multiply_values(const float (&weight)[kKeys / 8][4], const uint16_t* sv,
                                                float (&out)[kDim / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
    uint32_t fw[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      fw[i] = pack_f16(weight[2 * k + i / 2][i % 2 * 2], weight[2 * k + i / 2][i % 2 * 2 + 1]);
    }
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t r[4];
      gpu::ldmatrix_x4_trans(r, sv + (k * 16 + lane % 16) * kStride<kDim> + d * 16 + lane / 16 * 8);
      const uint32_t b0[2] = {r[0], r[1]};
      const uint32_t b1[2] = {r[2], r[3]};
      gpu::mma_f16(out[2 * d], fw, b0);
      gpu::mma_f16(out[2 * d + 1], fw, b1);
    }
  }
}

// One of a thread's two rows: what it sees, and the softmax so far.
struct Row {
  int64_t begin;
  int64_t end;
  float top;
  float total;
};

// Scores become weights relative to the row's new maximum; returns what the row's output is multiplied with.
// kHalf: which of the thread's rows. Four neighbouring lanes share a row.
template <int kHalf, int kKeys>
__device__ __forceinline__ float soften(Row& row, int64_t s0, bool all_seen, float softcap,
                                        float (&score)[kKeys / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float minus_infinity = __int_as_float(0xff800000);
  float top = row.top;
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float& x = score[j][2 * kHalf + e];
      const int64_t s = s0 + j * 8 + lane % 4 * 2 + e;
      x = all_seen || (s >= row.begin && s < row.end) ? capped(x, softcap) * kLog2E : minus_infinity;
      top = fmaxf(top, x);
    }
  }
  top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
  top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
  const bool any = top > minus_infinity;
  const float scale = any ? exp2f(row.top - top) : 1.0f;
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float& x = score[j][2 * kHalf + e];
      x = exp2f(x - (any ? top : 0.0f));
      sum += x;
    }
  }
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  row.total = row.total * scale + sum;
  row.top = top;
  return scale;
}

// Blocks that a multiprocessor should hold at once; it has registers for as many.
constexpr int blocks_wanted(int dim) {
  return dim <= 80 ? 3 : 2;
}

template <int kDim, int kKeys>
__global__ void __launch_bounds__(kThreads, blocks_wanted(kDim))
    attention_many_kernel(AttentionArgs a, Eights eights) {
  GPU_DYN_SHARED(uint16_t, sq);
  GPU_SHARED(uint8_t, flags, [2][kKeys]);
  uint16_t* sk = sq + kRows * kStride<kDim>;
  uint16_t* sv = sk + kKeys * kStride<kDim>;
  const int64_t t0 = static_cast<int64_t>(blockIdx.x) * kRows;
  const int64_t head = blockIdx.y;
  const int64_t kv_head = head / (a.n_heads / a.n_kv_heads);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t my_t = t0 + static_cast<int64_t>(threadIdx.x) / kWarp * 16 + lane / 4;  // and my_t + 8

  const Window window = window_of(a, t0);
  load_queries<kDim>(a, t0, head, eights, sq);
  Seen<kKeys> seen = mark_seen<kKeys>(a, t0, window.low, window, flags[0]);
  __syncthreads();
  if (window.low < window.high) {
    load_round<kDim, kKeys>(a.k, a, window.low, kv_head, seen, eights.k, sk);
    load_round<kDim, kKeys>(a.v, a, window.low, kv_head, seen, eights.v, sv);
  }
  Row rows[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const Interval interval = my_t + 8 * h < a.q.rows ? interval_of(a, my_t + 8 * h) : Interval{0, 0, true};
    rows[h] = {interval.begin, interval.end, __int_as_float(0xff800000), 0.0f};
  }
  float out[kDim / 8][4] = {};
  int round = 0;
  for (int64_t s0 = window.low; s0 < window.high; s0 += kKeys) {
    ++round;
    const bool more = s0 + kKeys < window.high;
    const bool all_seen = seen.all;
    if (more) seen = mark_seen<kKeys>(a, t0, s0 + kKeys, window, flags[round % 2]);
    gpu::cp_async_wait<1>();  // the keys; the values may be under way
    __syncthreads();
    float score[kKeys / 8][4] = {};
    multiply_keys<kDim, kKeys>(sq, sk, score);
    __syncthreads();
    if (more) {
      load_round<kDim, kKeys>(a.k, a, s0 + kKeys, kv_head, seen, eights.k, sk);
    } else {
      gpu::cp_async_commit();
    }
    const float scale[2] = {soften<0, kKeys>(rows[0], s0, all_seen, a.softcap, score),
                            soften<1, kKeys>(rows[1], s0, all_seen, a.softcap, score)};
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out[j][e] *= scale[e / 2];
    }
    gpu::cp_async_wait<1>();  // the values; the next keys may be under way
    __syncthreads();
    multiply_values<kDim, kKeys>(score, sv, out);
    __syncthreads();
    if (more) load_round<kDim, kKeys>(a.v, a, s0 + kKeys, kv_head, seen, eights.v, sv);
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t t = my_t + 8 * h;
    if (t >= a.q.rows) continue;
    const bool sane = interval_of(a, t).sane;
    float* to = row_of<float>(a.out, t) + head * a.head_dim;
#pragma unroll
    for (int i = 0; i < kDim / 4; ++i) {
      const int d = i / 2 * 8 + lane % 4 * 2 + i % 2;
      // No key seen: zeros. A NaN sum stays one.
      const float v = rows[h].total == 0.0f ? 0.0f : out[i / 2][2 * h + i % 2] / rows[h].total;
      if (d < a.head_dim) to[d] = sane ? v : quiet_nan();
    }
  }
}

template <int kDim, int kKeys>
Status run(const ExecContext& ctx, const AttentionArgs& a, dim3 grid, const Eights& eights) {
  constexpr size_t kShared = sizeof(uint16_t) * (kRows + 2 * kKeys) * kStride<kDim>;
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
  const Eights eights{
      stored_in_eights(a.q, a.head_dim), stored_in_eights(a.k, a.head_dim), stored_in_eights(a.v, a.head_dim),
      a.head_dim % 4 == 0 && rows_aligned(a.q, 16) && in_packs(a.rotation.cos) && in_packs(a.rotation.sin)};
  if (a.head_dim <= 32) return run<32, 64>(ctx, a, grid, eights);
  if (a.head_dim <= 64) return run<64, 64>(ctx, a, grid, eights);
  if (a.head_dim <= 80) return run<80, 64>(ctx, a, grid, eights);
  if (a.head_dim <= 96) return run<96, 64>(ctx, a, grid, eights);
  if (a.head_dim <= 128) return run<128, 64>(ctx, a, grid, eights);
  if (a.head_dim <= 192) return run<192, 32>(ctx, a, grid, eights);
  return run<256, 32>(ctx, a, grid, eights);
}

}  // namespace trimtok::cuda
