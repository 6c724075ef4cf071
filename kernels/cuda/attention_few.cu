// Attention of few rows (decode steps), in f32 throughout, bound by the memory of the key/value cache.
//
// The queries of one key/value head, T H/G pairs of a row and a head, share every key they read. A block of
// four warps owns up to kQueries of them and one split of the keys, which it takes kKeys at a time: the keys
// go to shared memory as f32, kPiece dimensions at a time (kKeys (kPiece + 1) floats), each warp scores two
// queries with a lane per key, then each thread owns up to kOwned dimensions of the values, two or four, and
// adds them up for every query. Splits leave their
// maximum, sum and unscaled output in scratch, and combine_kernel joins them. Bytes: k and v of the seen keys
// once per kQueries queries; FLOPs: 4 E per query and key.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/rotate.cuh"

namespace trimtok::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kQueries = 8;
constexpr int kQueriesPerWarp = kQueries / (kThreads / kWarp);
constexpr int kKeys = 32;
constexpr int kPiece = 256;
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

// The queries of a block, and what of them its threads share.
template <int kOwned>
struct Shared {
  float queries[kQueries][kOwned * kThreads];  // rotated, times scale
  int64_t seen[kQueries][2];                   // first key, and one past the last
  float weights[kQueries][kKeys];
  float rescale[kQueries];
  float sums[kQueries][2];  // maximum and sum, at the end
  float halves[kQueries][kThreads];
};
struct Part {
  int64_t kv_head;
  int64_t first;  // query
  int n_queries;
};

template <int kOwned>
__device__ __forceinline__ void load_queries(const AttentionArgs& a, const Part& part,
                                             Shared<kOwned>& shared) {
  const auto tid = static_cast<int>(threadIdx.x);
  for (int i = 0; i < part.n_queries; ++i) {
    const Query query = query_of(a, part.kv_head, part.first + i);
    const float* q = row_of<float>(a.q, query.t) + query.head * a.head_dim;
    for (int d = tid; d < a.head_dim; d += kThreads) {
      shared.queries[i][d] = rotated_element(a.rotation, query.t, q, d) * a.scale;
    }
    const Interval interval = interval_of(a, query.t);
    if (tid == 0) shared.seen[i][0] = interval.begin;
    if (tid == 0) shared.seen[i][1] = interval.end;
  }
}

// A piece of the dimensions: first, how many, and the floats between keys in shared memory, an odd number.
struct Piece {
  int first;
  int dims;
  int stride;
};
__device__ __forceinline__ Piece piece_of(int head_dim, int first) {
  return {first, min(head_dim - first, kPiece), min(head_dim, kPiece) | 1};
}

// keys[key][d]: dimensions of a piece of keys s0 ... of the part's head as f32.
__device__ __forceinline__ void load_keys(const AttentionArgs& a, const Part& part, int64_t s0, int n_keys,
                                          const Piece& piece, bool eights, float* keys) {
  const int units = (piece.dims + 7) / 8;
  for (int u = static_cast<int>(threadIdx.x); u < n_keys * units; u += kThreads) {
    const int key = u / units;
    const int d = u % units * 8;
    float v[8];
    stored_eight(a.k.dtype, head_slice(a.k, s0 + key, part.kv_head, a.head_dim), piece.first + d, a.head_dim,
                 eights, v);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if (d + e < piece.dims) keys[key * piece.stride + d + e] = v[e];
    }
  }
}

// The softmax of one query so far; all lanes of its warp hold it.
struct Softmax {
  float top;
  float total;
};

// What a piece adds to the score of a query against this lane's key.
__device__ __forceinline__ float add_score(const float* query, const Piece& piece, int n_keys,
                                           const float* keys, float score) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* q = query + piece.first;
  const float* k = keys + (lane < n_keys ? lane : 0) * piece.stride;
  for (int d = 0; d < piece.dims; ++d) score = fmaf(q[d], k[d], score);
  return score;
}

// The score of this lane's key becomes its weight; the factor for what was added up before is left, too.
template <int kOwned>
__device__ __forceinline__ void weigh(const AttentionArgs& a, int query, int64_t s0, int n_keys, float score,
                                      Shared<kOwned>& shared, Softmax& softmax) {
  const float minus_infinity = __int_as_float(0xff800000);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t s = s0 + lane;
  const bool sees = lane < n_keys && s >= shared.seen[query][0] && s < shared.seen[query][1];
  score = sees ? capped(score, a.softcap) : minus_infinity;
  const float top = fmaxf(softmax.top, warp_max(score));
  // A seen key's NaN, which the maximum passes over, comes back in its weight; so does -infinity.
  const float weight = sees ? expf(score - top) : 0.0f;
  const float scale = top > minus_infinity ? expf(softmax.top - top) : 1.0f;
  softmax = {top, softmax.total * scale + warp_sum(weight)};
  shared.weights[query][lane] = weight;
  if (lane == 0) shared.rescale[query] = scale;
}

// Which dimensions of the values a thread owns: `width` threads side by side own one each, or more where E is
// above kThreads; where half of the threads do, the other half takes every other key.
struct Dims {
  int width;
  int first;
  int half;
  int n_halves;
};
__device__ __forceinline__ Dims dims_of(int head_dim) {
  const int width = head_dim <= kThreads / 2 ? kThreads / 2 : kThreads;
  const auto tid = static_cast<int>(threadIdx.x);
  return {width, tid % width, tid / width, kThreads / width};
}

template <int kOwned>
__device__ __forceinline__ void add_values(const AttentionArgs& a, const Part& part, const Dims& dims,
                                           int64_t s0, int n_keys, const Shared<kOwned>& shared,
                                           float (&acc)[kQueries][kOwned]) {
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    if (i >= part.n_queries) break;
#pragma unroll
    for (int h = 0; h < kOwned; ++h) acc[i][h] *= shared.rescale[i];
  }
  for (int key = dims.half; key < n_keys; key += dims.n_halves) {
    const uint8_t* slice = head_slice(a.v, s0 + key, part.kv_head, a.head_dim);
#pragma unroll
    for (int h = 0; h < kOwned; ++h) {
      const int d = dims.first + h * kThreads;
      if (d >= a.head_dim) break;
      const float v = stored_value(a.v.dtype, slice, d);
#pragma unroll
      for (int i = 0; i < kQueries; ++i) {
        if (i >= part.n_queries) break;
        // A key that a query does not see may hold anything, NaN included.
        const float weight = shared.weights[i][key];
        if (weight != 0.0f) acc[i][h] = fmaf(weight, v, acc[i][h]);
      }
    }
  }
}

// Sums of a row: out, or this split's share of it.
template <int kOwned>
__device__ __forceinline__ void store(const AttentionArgs& a, const Split& split, const Part& part,
                                      const Dims& dims, const Shared<kOwned>& shared,
                                      const float (&acc)[kQueries][kOwned]) {
  const auto tid = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    if (i >= part.n_queries) break;
    const Query query = query_of(a, part.kv_head, part.first + i);
    const bool sane = interval_of(a, query.t).sane;
    const float sum = shared.sums[i][1];
    float* partial = nullptr;
    if (split.count > 1) {
      const int64_t row = query.t * a.n_heads + query.head;
      partial = split.partial + (row * split.count + blockIdx.z) * (2 + a.head_dim);
      if (tid < 2) partial[tid] = shared.sums[i][tid];
    }
#pragma unroll
    for (int h = 0; h < kOwned; ++h) {
      const int d = dims.first + h * kThreads;
      if (d >= a.head_dim || dims.half != 0) break;
      float v = acc[i][h];
      if (dims.n_halves == 2) v += shared.halves[i][tid + dims.width];
      if (split.count > 1) {
        partial[2 + d] = v;
      } else {
        // No key seen: zeros. A NaN sum stays one.
        float* out = row_of<float>(a.out, query.t) + query.head * a.head_dim;
        out[d] = !sane ? quiet_nan() : sum == 0.0f ? 0.0f : v / sum;
      }
    }
  }
}

template <int kOwned>
__global__ void __launch_bounds__(kThreads) attention_few_kernel(AttentionArgs a, Split split) {
  GPU_DYN_SHARED(float, keys);  // [kKeys][Piece::stride]
  GPU_SHARED(Shared<kOwned>, shared_array, [1]);
  Shared<kOwned>& shared = shared_array[0];
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kQueries;
  const int64_t rest = a.q.rows * (a.n_heads / a.n_kv_heads) - first;
  const Part part{blockIdx.x, first, rest < kQueries ? static_cast<int>(rest) : kQueries};
  const auto tid = static_cast<int>(threadIdx.x);
  load_queries(a, part, shared);
  __syncthreads();
  // What this block's queries see of the split; no key outside is read.
  int64_t low = a.k.rows;
  int64_t high = 0;
  for (int i = 0; i < part.n_queries; ++i) {
    if (shared.seen[i][0] == shared.seen[i][1]) continue;
    low = min(low, shared.seen[i][0]);
    high = max(high, shared.seen[i][1]);
  }
  low = max(low, static_cast<int64_t>(blockIdx.z) * split.length);
  high = min(high, (static_cast<int64_t>(blockIdx.z) + 1) * split.length);

  const int my_query = tid / kWarp * kQueriesPerWarp;  // the first
  Softmax softmax[kQueriesPerWarp];
#pragma unroll
  for (int i = 0; i < kQueriesPerWarp; ++i) softmax[i] = {__int_as_float(0xff800000), 0.0f};
  const Dims dims = dims_of(a.head_dim);
  float acc[kQueries][kOwned] = {};
  for (int64_t s0 = low; s0 < high; s0 += kKeys) {
    const int n_keys = high - s0 < kKeys ? static_cast<int>(high - s0) : kKeys;
    float score[kQueriesPerWarp] = {};
#pragma unroll
    for (int p = 0; p < kOwned * kThreads / kPiece; ++p) {
      const Piece piece = piece_of(a.head_dim, p * kPiece);
      if (p > 0) __syncthreads();  // all are done with the piece before
      load_keys(a, part, s0, n_keys, piece, split.k_eights, keys);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kQueriesPerWarp; ++i) {
        if (my_query + i < part.n_queries) {
          score[i] = add_score(shared.queries[my_query + i], piece, n_keys, keys, score[i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kQueriesPerWarp; ++i) {
      if (my_query + i < part.n_queries) weigh(a, my_query + i, s0, n_keys, score[i], shared, softmax[i]);
    }
    __syncthreads();
    add_values(a, part, dims, s0, n_keys, shared, acc);
    // No barrier: the next round writes keys, which nobody reads here, and meets one before it writes
    // weights.
  }
#pragma unroll
  for (int i = 0; i < kQueriesPerWarp; ++i) {
    if (tid % kWarp == 0) shared.sums[my_query + i][0] = softmax[i].top;
    if (tid % kWarp == 0) shared.sums[my_query + i][1] = softmax[i].total;
  }
#pragma unroll
  for (int i = 0; i < kQueries; ++i) shared.halves[i][tid] = acc[i][0];
  __syncthreads();
  store(a, split, part, dims, shared, acc);
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
  const int stride = (a.head_dim < kPiece ? a.head_dim : kPiece) | 1;
  const auto shared = static_cast<size_t>(kKeys * stride) * sizeof(float);
  static_assert(kMaxHeadDim == 4 * kThreads);
  auto* kernel = a.head_dim <= 2 * kThreads ? attention_few_kernel<2> : attention_few_kernel<4>;
  const Status s = gpu::launch(kernel, grid, dim3(kThreads), shared, ctx.stream, a, split);
  if (s != Status::kOk || split.count == 1) return s;
  const dim3 rows(static_cast<unsigned>(a.q.rows), static_cast<unsigned>(a.n_heads));
  return gpu::launch(combine_kernel, rows, dim3(kThreads), 0, ctx.stream, a, split);
}

}  // namespace trimtok::cuda
