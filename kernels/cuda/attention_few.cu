// Attention of few rows (decode steps), in f32 throughout, bound by the memory of the key/value cache.
//
// The queries of one key/value head, T H/G pairs of a row and a head, share every key they read. A block of
// four warps owns up to kQueries of them and one split of the keys, which it takes kKeys at a time: the keys
// go to shared memory as f32 (kKeys (E + 1) floats), each warp scores two queries with a lane per key, then
// each thread owns one or two dimensions of the values and adds them up for every query. Splits leave their
// maximum, sum and unscaled output in scratch, and combine_kernel joins them. Bytes: k and v of the seen keys
// once per kQueries queries; FLOPs: 4 E per query and key.
#include "kernels/cuda/attention.cuh"

namespace trimtok::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kQueries = 8;
constexpr int kQueriesPerWarp = kQueries / (kThreads / kWarp);
constexpr int kKeys = 32;
constexpr int64_t kWantedBlocks = 256;

struct Split {
  int64_t length;  // keys of a split, a multiple of kKeys
  int32_t count;
  bool k_eights;   // stored_in_eights()
  float* partial;  // [T][H][count][2 + E]: maximum, sum, output; null where count is 1
};

// Query i of a key/value head.
struct Query {
  int64_t t;
  int64_t head;
};
__device__ __forceinline__ Query query_of(const AttentionArgs& a, int64_t kv_head, int64_t i) {
  const int64_t group = a.n_heads / a.n_kv_heads;
  return {i / group, kv_head * group + i % group};
}

__global__ void __launch_bounds__(kThreads) attention_few_kernel(AttentionArgs a, Split split) {
  GPU_DYN_SHARED(float, keys);  // [kKeys][E | 1]
  GPU_SHARED(float, queries, [kQueries][kMaxHeadDim]);
  GPU_SHARED(float, weights, [kQueries][kKeys]);
  GPU_SHARED(float, rescale, [kQueries]);
  GPU_SHARED(int64_t, seen, [kQueries][2]);  // by each query: first key, and one past the last
  GPU_SHARED(float, sums, [kQueries][2]);    // maximum and sum of each query, at the end
  GPU_SHARED(float, halves, [kQueries][kThreads]);
  const int64_t kv_head = blockIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kQueries;
  const int64_t n_all = a.q.rows * (a.n_heads / a.n_kv_heads);
  const int n_queries = n_all - first < kQueries ? static_cast<int>(n_all - first) : kQueries;
  const int dim = a.head_dim;
  const int stride = dim | 1;
  const auto tid = static_cast<int>(threadIdx.x);
  const int lane = tid % kWarp;
  const int warp = tid / kWarp;

  for (int i = 0; i < n_queries; ++i) {
    const Query query = query_of(a, kv_head, first + i);
    const float* q = row_of<float>(a.q, query.t) + query.head * dim;
    for (int d = tid; d < dim; d += kThreads) queries[i][d] = q[d] * a.scale;
    const Interval interval = interval_of(a, query.t);
    if (tid == 0) seen[i][0] = interval.begin;
    if (tid == 0) seen[i][1] = interval.end;
  }
  __syncthreads();
  // What this block's queries see of the split; no key outside is read.
  int64_t low = a.k.rows;
  int64_t high = 0;
  for (int i = 0; i < n_queries; ++i) {
    if (seen[i][0] == seen[i][1]) continue;
    low = min(low, seen[i][0]);
    high = max(high, seen[i][1]);
  }
  const int64_t split_begin = static_cast<int64_t>(blockIdx.z) * split.length;
  const int64_t split_end = split_begin + split.length;
  low = max(low, split_begin);
  high = min(high, split_end);

  // Values: `width` threads side by side own the dimensions, threads beyond take every other key.
  const int width = dim <= kThreads / 2 ? kThreads / 2 : kThreads;
  const int my_dim = tid % width;
  const int my_half = tid / width;
  const int n_halves = kThreads / width;
  float acc[kQueries][2] = {};
  float top[kQueriesPerWarp];
  float total[kQueriesPerWarp];
#pragma unroll
  for (int i = 0; i < kQueriesPerWarp; ++i) {
    top[i] = __int_as_float(0xff800000);  // -infinity
    total[i] = 0.0f;
  }
  for (int64_t s0 = low; s0 < high; s0 += kKeys) {
    const int n_keys = high - s0 < kKeys ? static_cast<int>(high - s0) : kKeys;
    const int units = (dim + 7) / 8;
    for (int u = tid; u < n_keys * units; u += kThreads) {
      const int key = u / units;
      const int d = u % units * 8;
      float v[8];
      stored_eight(a.k.dtype, head_slice(a.k, s0 + key, kv_head, dim), d, dim, split.k_eights, v);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        if (d + e < dim) keys[key * stride + d + e] = v[e];
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kQueriesPerWarp; ++i) {
      const int query = warp * kQueriesPerWarp + i;
      if (query >= n_queries) break;
      const bool sees = lane < n_keys && s0 + lane >= seen[query][0] && s0 + lane < seen[query][1];
      float score = 0.0f;
      const float* k = keys + (lane < n_keys ? lane : 0) * stride;
      for (int d = 0; d < dim; ++d) score = fmaf(queries[query][d], k[d], score);
      score = sees ? capped(score, a.softcap) : __int_as_float(0xff800000);
      const float new_top = fmaxf(top[i], warp_max(score));
      const bool any = new_top > __int_as_float(0xff800000);
      // A seen key's NaN, which the maximum passes over, comes back in its weight; so does -infinity.
      const float weight = sees ? expf(score - new_top) : 0.0f;
      const float scale = any ? expf(top[i] - new_top) : 1.0f;
      total[i] = total[i] * scale + warp_sum(weight);
      top[i] = new_top;
      weights[query][lane] = weight;
      if (lane == 0) rescale[query] = scale;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      if (i >= n_queries) break;
      acc[i][0] *= rescale[i];
      acc[i][1] *= rescale[i];
    }
    for (int key = my_half; key < n_keys; key += n_halves) {
      const uint8_t* slice = head_slice(a.v, s0 + key, kv_head, dim);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int d = my_dim + h * kThreads;
        if (d >= dim) break;
        const float v = stored_value(a.v.dtype, slice, d);
#pragma unroll
        for (int i = 0; i < kQueries; ++i) {
          if (i >= n_queries) break;
          // A key that a query does not see may hold anything, NaN included.
          const float weight = weights[i][key];
          if (weight != 0.0f) acc[i][h] = fmaf(weight, v, acc[i][h]);
        }
      }
    }
    // No barrier: the next round writes keys, which nobody reads here, and meets one before it writes
    // weights.
  }

#pragma unroll
  for (int i = 0; i < kQueriesPerWarp; ++i) {
    if (lane == 0) sums[warp * kQueriesPerWarp + i][0] = top[i];
    if (lane == 0) sums[warp * kQueriesPerWarp + i][1] = total[i];
  }
#pragma unroll
  for (int i = 0; i < kQueries; ++i) halves[i][tid] = acc[i][0];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    if (i >= n_queries) break;
    const Query query = query_of(a, kv_head, first + i);
    const bool sane = interval_of(a, query.t).sane;
    const float sum = sums[i][1];
    float* partial = nullptr;
    if (split.count > 1) {
      partial = split.partial + ((query.t * a.n_heads + query.head) * split.count + blockIdx.z) * (2 + dim);
      if (tid < 2) partial[tid] = sums[i][tid];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int d = my_dim + h * kThreads;
      if (d >= dim || my_half != 0) break;
      float v = acc[i][h];
      if (n_halves == 2) v += halves[i][tid + width];
      if (split.count > 1) {
        partial[2 + d] = v;
      } else {
        // No key seen: zeros. A NaN sum stays one.
        row_of<float>(a.out, query.t)[query.head * dim + d] = !sane         ? quiet_nan()
                                                              : sum == 0.0f ? 0.0f
                                                                            : v / sum;
      }
    }
  }
}

// A block owns one row and head: reads count (2 + E) floats, writes E.
__global__ void __launch_bounds__(kThreads) combine_kernel(AttentionArgs a, Split split) {
  const int64_t t = blockIdx.x;
  const int64_t head = blockIdx.y;
  const int dim = a.head_dim;
  const float* partial = split.partial + (t * a.n_heads + head) * split.count * (2 + dim);
  const bool sane = interval_of(a, t).sane;
  float top = __int_as_float(0xff800000);
  for (int s = 0; s < split.count; ++s) top = fmaxf(top, partial[s * (2 + dim)]);
  const bool any = top > __int_as_float(0xff800000);
  for (int d = static_cast<int>(threadIdx.x); d < dim; d += kThreads) {
    float sum = 0.0f;
    float v = 0.0f;
    for (int s = 0; s < split.count; ++s) {
      const float* p = partial + s * (2 + dim);
      const float weight = any ? expf(p[0] - top) : 1.0f;  // 1: only NaN is left to carry over
      sum = fmaf(weight, p[1], sum);
      v = fmaf(weight, p[2 + d], v);
    }
    row_of<float>(a.out, t)[head * dim + d] = !sane ? quiet_nan() : sum == 0.0f ? 0.0f : v / sum;
  }
}

}  // namespace

Status attention_few(const ExecContext& ctx, const AttentionArgs& a) {
  const int64_t query_blocks = gpu::ceil_div(a.q.rows * (a.n_heads / a.n_kv_heads), kQueries);
  const int64_t most = gpu::ceil_div(a.k.rows, 2 * kKeys);
  int64_t wanted = gpu::ceil_div(kWantedBlocks, a.n_kv_heads * query_blocks);
  wanted = wanted > most ? most : wanted;
  Split split{};
  split.length = gpu::ceil_div(gpu::ceil_div(a.k.rows, wanted < 1 ? 1 : wanted), kKeys) * kKeys;
  split.count = split.length == 0 ? 1 : static_cast<int32_t>(gpu::ceil_div(a.k.rows, split.length));
  split.k_eights = stored_in_eights(a.k, a.head_dim);
  if (query_blocks > 65535 || split.count > 65535 || a.n_heads > 65535) {
    return gpu::fail(Status::kUnsupported, "attention: more rows, heads or keys than one launch holds");
  }
  if (split.count > 1) {
    const int64_t floats = a.q.rows * a.n_heads * split.count * (2 + a.head_dim);
    split.partial = static_cast<float*>(get_scratch(ctx, static_cast<size_t>(floats) * sizeof(float)));
    if (split.partial == nullptr) return Status::kOutOfMemory;
  }
  const dim3 grid(static_cast<unsigned>(a.n_kv_heads), static_cast<unsigned>(query_blocks),
                  static_cast<unsigned>(split.count));
  const auto shared = static_cast<size_t>(kKeys * (a.head_dim | 1)) * sizeof(float);
  const Status s = gpu::launch(attention_few_kernel, grid, dim3(kThreads), shared, ctx.stream, a, split);
  if (s != Status::kOk || split.count == 1) return s;
  const dim3 rows(static_cast<unsigned>(a.q.rows), static_cast<unsigned>(a.n_heads));
  return gpu::launch(combine_kernel, rows, dim3(kThreads), 0, ctx.stream, a, split);
}

}  // namespace trimtok::cuda
