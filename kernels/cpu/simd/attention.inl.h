// Blocked attention with an online softmax (Milakov and Gimelshein 2018, Dao et al. 2022), all in f32.
//
// A "query" is one row of one head; the heads that share a key/value head are blocked together, so a block
// of keys is widened to f32 once for all of them. Two kernels share packing, planning and merging:
//   many queries  lanes are queries: scores, maxima and outputs are kept transposed, so K and V are used as
//                 they lie, softmax needs no horizontal step and any head_dim and number of keys will do;
//   few queries   (decode) lanes are keys, then elements of the head: one pass over K and V, all heads of a
//                 block of keys together so that memory is read in order.
// Where query blocks are too few to fill a machine, the keys are split as well. Every split depends on the
// shape alone and partial results are merged in order: the result is the same for any number of threads.

constexpr int kTileVecs = 3;                    // vectors of queries in a register tile
constexpr int kTileRows = kLanes == 8 ? 4 : 8;  // keys or outputs in it: 12 or 24 accumulators
constexpr int kPanel = kTileVecs * kLanes;      // queries that are processed together
constexpr int64_t kBlockQueries = 144;          // whole panels on every ISA; spreads the packing of K and V
constexpr int64_t kFewQueries = 8;              // at most so many go through the few-queries kernel
constexpr int64_t kFewKeys = 48;                // keys that they meet at a time
constexpr int64_t kBlockFloats = 8192;          // of K and of V: 32 KiB each
constexpr int64_t kWantedTasks = 64;            // split keys up to here ...
constexpr int64_t kMinChunkKeys = 256;          // ... but not into smaller chunks
constexpr float kLowest = -3.40282347e38f;      // "no key yet": finite, so that masked - kLowest is no NaN

// 2^x for x <= 0, exactly 0 below -150. Degree 6 minimax on |f| <= 1/2, relative error below 2e-9.
TT_INLINE Vf vexp2(Vf x) {
  constexpr float kP[] = {1.0f,          0.69314718f,   0.24022646f,   0.055503286f,
                          0.0096184891f, 0.0013399931f, 0.00015345811f};
  x = vmax(vset1(-160.0f), x);
  const Vf n = vround(x);
  return vscale2(vpoly(kP, vsub(x, n)), n);
}

struct AttentionJob {
  const AttentionArgs* args;
  int64_t head_dim;
  int64_t padded;  // head_dim up to whole vectors and tiles: the row length of packed K, V, Q and outputs
  int64_t group;   // query heads per key/value head
  int64_t block_rows;
  int64_t n_blocks;
  int64_t block_keys;
  int64_t first_key;  // keys [first_key, first_key + n_chunks * chunk_keys) hold all that some row sees
  int64_t chunk_keys;
  int64_t n_chunks;
  int64_t tasks_per_chunk;  // key/value heads; 1 where a task does them all
  bool few;
  float q_scale;   // brings scores to base 2, or to units of the softcap
  float cap;       // softcap in base 2; 0: none
  float* partial;  // [n_chunks, T, H, padded + 2]: outputs, maximum, sum. Null with one chunk
  float* scratch;  // [n_threads, thread_floats]
  int64_t thread_floats;
};

// One task: the rows of a query block, one key/value head, one chunk of the keys.
struct QueryBlock {
  int64_t kv_head;
  int64_t row0;
  int64_t n_queries;  // rows * group; query i is row row0 + i / group, head kv_head * group + i % group
  int64_t chunk;
  int64_t begin;  // keys of the chunk that some row sees
  int64_t end;
};

struct KeyBlock {
  const float* k;  // [n up to whole tiles, padded], zeros beyond n
  const float* v;
  int64_t first;
  int64_t n;
};

TT_INLINE const float* query_row(const AttentionJob& job, const QueryBlock& b, int64_t i) {
  const float* row = f32_row(job.args->q, b.row0 + i / job.group);
  return row + (b.kv_head * job.group + i % job.group) * job.head_dim;
}

// Angles of a row's queries, kept while they serve.
struct QueryAngles {
  Angles angles;
  int64_t row;  // -1: none yet
};

// Query i of the block: where it lies, or, where it is to be rotated, rotated to `memory`, [head_dim].
// `doubled`: room for angle_floats(). Queries by their row: the angles are prepared once for each.
TT_INLINE const float* load_query(const AttentionJob& job, const QueryBlock& b, int64_t i, QueryAngles& of,
                                  float* memory, float* doubled) {
  const float* q = query_row(job, b, i);
  const Rotation& r = job.args->rotation;
  if (!rotates(r)) return q;
  const int64_t t = b.row0 + i / job.group;
  if (t != of.row) {
    of.angles = row_angles(f32_row(r.cos, t), f32_row(r.sin, t), r.cos.cols, r.pairs, doubled);
    of.row = t;
  }
  const int64_t rotated = 2 * r.cos.cols;
  rotate_head(of.angles, q, memory);
  if (rotated < job.head_dim) {
    memcpy(memory + rotated, q + rotated, static_cast<size_t>(job.head_dim - rotated) * sizeof(float));
  }
  return memory;
}

// Where the outputs of query i go: the result, or its record of partial results.
TT_INLINE float* output_row(const AttentionJob& job, const QueryBlock& b, int64_t i) {
  const int64_t t = b.row0 + i / job.group;
  const int64_t head = b.kv_head * job.group + i % job.group;
  if (job.partial != nullptr) {
    const int64_t record = (b.chunk * job.args->q.rows + t) * job.args->n_heads + head;
    return job.partial + record * (job.padded + 2);
  }
  return f32_row(job.args->out, t) + head * job.head_dim;
}

template <Dtype dtype>
TT_INLINE Vf load_stored(const void* row, int64_t i, int64_t n) {
  const auto* half = static_cast<const uint16_t*>(row) + i;
  if constexpr (dtype == Dtype::kF16) return n == kLanes ? vload_f16(half) : vload_f16_n(half, n);
  if constexpr (dtype == Dtype::kBF16) return n == kLanes ? vload_bf16(half) : vload_bf16_n(half, n);
  if constexpr (dtype == Dtype::kQ8_0) {  // head_dim is whole blocks here, so n is kLanes or 0
    if (n == 0) return vzero();
    const auto* block = static_cast<const BlockQ8_0*>(row) + i / 32;
    return vmul(vload_i8(block->qs + i % 32), vset1(load_f16(block)));
  }
  const float* f32 = static_cast<const float*>(row) + i;
  return n == kLanes ? vload(f32) : vload_n(f32, n);
}

// Asks for the slice of `bytes` that lies `ahead` bytes after p. Slices of rows are no pattern that hardware
// prefetchers follow far enough.
TT_INLINE void prefetch_slice(const char* p, int64_t ahead, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) prefetch(p, ahead + i);
}

// Rows [first, first + n) of one head as f32, zeros up to `padded` columns and n_padded rows.
template <Dtype dtype>
void pack_rows(const AttentionJob& job, const ConstMatrix& m, int64_t kv_head, int64_t first, int64_t n,
               int64_t n_padded, float* out) {
  const int64_t bytes = row_bytes(dtype, job.head_dim);
  const char* row = static_cast<const char*>(m.data) + first * m.stride + kv_head * bytes;
  for (int64_t s = 0; s < n; ++s, row += m.stride, out += job.padded) {
    prefetch_slice(row, job.block_keys * m.stride, bytes);
    int64_t i = 0;
    for (; i + kLanes <= job.head_dim; i += kLanes) vstore(out + i, load_stored<dtype>(row, i, kLanes));
    for (; i < job.padded; i += kLanes) {
      vstore(out + i, load_stored<dtype>(row, i, imax(job.head_dim - i, 0)));
    }
  }
  for (int64_t i = 0; i < (n_padded - n) * job.padded; i += kLanes) vstore(out + i, vzero());
}

void pack_head(const AttentionJob& job, const ConstMatrix& m, int64_t kv_head, int64_t first, int64_t n,
               int64_t n_padded, float* out) {
  switch (m.dtype) {
    case Dtype::kF16:
      return pack_rows<Dtype::kF16>(job, m, kv_head, first, n, n_padded, out);
    case Dtype::kBF16:
      return pack_rows<Dtype::kBF16>(job, m, kv_head, first, n, n_padded, out);
    case Dtype::kQ8_0:
      return pack_rows<Dtype::kQ8_0>(job, m, kv_head, first, n, n_padded, out);
    default:  // F32, the only other dtype that the check admits
      return pack_rows<Dtype::kF32>(job, m, kv_head, first, n, n_padded, out);
  }
}

// Scores leave the first product in base 2 or, with a softcap, in its units.
TT_INLINE Vf finish_score(Vf s, float cap) {
  return cap == 0.0f ? s : vmul(vset1(cap), vtanh(s));
}

// What a register tile starts from.
enum class Start { kZero, kKeep, kScale };

// The register tile of every product here: c[r] = start + sum_i a[r][i] b[i], c: [R, V vectors].
// kScale: c[r] = factor c[r] + ..., lane by lane.
template <int R, int V, Start start>
TT_INLINE void attention_tile(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_row,
                              int64_t n, float* c, int64_t c_row, const float* factor) {
  Vf acc[R][V];
  TT_UNROLL
  for (int r = 0; r < R; ++r) {
    TT_UNROLL
    for (int v = 0; v < V; ++v) {
      acc[r][v] = start == Start::kZero ? vzero() : vload(c + r * c_row + v * kLanes);
      if (start == Start::kScale) acc[r][v] = vmul(acc[r][v], vload(factor + v * kLanes));
    }
  }
  for (int64_t i = 0; i < n; ++i, a += a_step, b += b_row) {
    Vf x[V];
    TT_UNROLL
    for (int v = 0; v < V; ++v) x[v] = vload(b + v * kLanes);
    TT_UNROLL
    for (int r = 0; r < R; ++r) {
      const Vf y = vset1(a[r * a_row]);
      TT_UNROLL
      for (int v = 0; v < V; ++v) acc[r][v] = vfma(y, x[v], acc[r][v]);
    }
  }
  TT_UNROLL
  for (int r = 0; r < R; ++r) {
    TT_UNROLL
    for (int v = 0; v < V; ++v) vstore(c + r * c_row + v * kLanes, acc[r][v]);
  }
}

TT_INLINE int64_t lane_row(const AttentionJob& job, const QueryBlock& b, int64_t query) {
  return b.row0 + imin(query, b.n_queries - 1) / job.group;
}

// The part of [0, n) that query i of the block sees, relative to key `first`.
TT_INLINE void visible(const AttentionJob& job, const QueryBlock& b, int64_t i, int64_t first, int64_t n,
                       int64_t* from, int64_t* to) {
  const int64_t t = lane_row(job, b, i);
  *from = imax(imin(job.args->begin[t] - first, n), 0);
  *to = imax(imin(job.args->end[t] - first, n), 0);
}

// 1 / sum, but 0 for a row that saw no key.
TT_INLINE Vf inverse_sum(Vf sum) {
  return vselect(vge(vzero(), sum), vzero(), vdiv(vset1(1.0f), sum));
}

#include "kernels/cpu/simd/attention_few.inl.h"
#include "kernels/cpu/simd/attention_many.inl.h"

// The keys that rows [row0, row0 + rows) see lie in [*begin, *end).
void seen_keys(const AttentionArgs& a, int64_t row0, int64_t rows, int64_t* begin, int64_t* end) {
  *begin = INT64_MAX;
  *end = 0;
  for (int64_t t = row0; t < row0 + rows; ++t) {
    if (a.begin[t] == a.end[t]) continue;
    *begin = imin(*begin, a.begin[t]);
    *end = imax(*end, a.end[t]);
  }
  *begin = imin(*begin, *end);
}

void attention_task(void* arg, int64_t i, int32_t thread) {
  const AttentionJob& job = *static_cast<const AttentionJob*>(arg);
  const AttentionArgs& a = *job.args;
  const int64_t per_block = job.tasks_per_chunk * job.n_chunks;
  const int64_t block = job.n_blocks - 1 - i / per_block;  // causal blocks grow: the longest go first
  QueryBlock b;
  b.kv_head = i % job.tasks_per_chunk;
  b.chunk = i / job.tasks_per_chunk % job.n_chunks;
  b.row0 = block * job.block_rows;
  const int64_t rows = block == job.n_blocks - 1 ? a.q.rows - b.row0 : job.block_rows;
  b.n_queries = rows * job.group;
  seen_keys(a, b.row0, rows, &b.begin, &b.end);
  b.begin = imax(b.begin, job.first_key + b.chunk * job.chunk_keys);
  b.end = imin(b.end, job.first_key + (b.chunk + 1) * job.chunk_keys);
  float* scratch = job.scratch + thread * job.thread_floats;
  if (job.few) {
    attend_few_queries(job, b, scratch);
  } else {
    attend_many_queries(job, b, scratch);
  }
}

// Joins the chunks of one row and key/value head.
void merge_task(void* arg, int64_t i, int32_t) {
  const AttentionJob& job = *static_cast<const AttentionJob*>(arg);
  const AttentionArgs& a = *job.args;
  const int64_t t = i / a.n_kv_heads;
  const int64_t record = job.padded + 2;
  const int64_t chunk_stride = a.q.rows * a.n_heads * record;
  for (int64_t j = 0; j < job.group; ++j) {
    const int64_t head = i % a.n_kv_heads * job.group + j;
    float* first = job.partial + (t * a.n_heads + head) * record;
    float* max = first + job.padded;
    float* chunk_sum = max + 1;
    Vf top = vset1(kLowest);
    for (int64_t c = 0; c < job.n_chunks; ++c) top = vmax(top, vset1(max[c * chunk_stride]));
    Vf sum = vzero();
    for (int64_t c = 0; c < job.n_chunks; ++c) {
      const Vf weight = vexp2(vsub(vset1(max[c * chunk_stride]), top));
      sum = vfma(weight, vset1(chunk_sum[c * chunk_stride]), sum);
      vstore_n(max + c * chunk_stride, weight, 1);
    }
    const Vf inverse = inverse_sum(sum);
    float* out = f32_row(a.out, t) + head * job.head_dim;
    for (int64_t e = 0; e < job.head_dim; e += kLanes) {
      const int64_t n = imin(job.head_dim - e, kLanes);
      Vf x = vzero();
      for (int64_t c = 0; c < job.n_chunks; ++c) {
        x = vfma(vset1(max[c * chunk_stride]), vload_n(first + c * chunk_stride + e, n), x);
      }
      vstore_n(out + e, vmul(x, inverse), n);
    }
  }
}

// Blocks, chunks and scratch, from the arguments alone.
AttentionJob plan_attention(const AttentionArgs& a) {
  AttentionJob job;
  job.args = &a;
  job.head_dim = a.head_dim;
  job.padded = round_up(job.head_dim, kLanes > kTileRows ? kLanes : kTileRows);
  job.group = a.n_heads / a.n_kv_heads;
  const float log2_e = 1.44269504f;
  job.cap = a.softcap * log2_e;
  job.q_scale = a.softcap > 0.0f ? a.scale / a.softcap : a.scale * log2_e;
  job.few = a.q.rows <= kFewQueries / job.group;
  job.tasks_per_chunk = job.few ? 1 : a.n_kv_heads;
  job.block_keys = job.few ? kFewKeys : imax(imin(kBlockFloats / job.padded / 32 * 32, 128), 32);
  job.block_rows = imin(imax(kBlockQueries / job.group, 1), a.q.rows);
  int64_t rest = a.q.rows % job.block_rows;
  job.n_blocks = a.q.rows / job.block_rows;
  if (4 * rest > job.block_rows) {  // a smaller rest joins the last block
    ++job.n_blocks;
    rest = 0;
  }

  int64_t last_key;
  seen_keys(a, 0, a.q.rows, &job.first_key, &last_key);
  const int64_t span = imax(last_key - job.first_key, 0);
  const int64_t wanted = imax(kWantedTasks / (job.n_blocks * job.tasks_per_chunk), 1);
  // Of few queries, so many keys that the partial results are a small part of the memory traffic.
  const int64_t smallest = job.few ? 32 * job.group : kMinChunkKeys;
  job.chunk_keys = round_up(imax(ceil_div(span, wanted), smallest), job.block_keys);
  job.n_chunks = imax(ceil_div(span, job.chunk_keys), 1);
  job.partial = nullptr;
  job.scratch = nullptr;
  const int64_t max_queries = (job.block_rows + rest) * job.group;
  const int64_t floats = job.few ? few_queries_floats(a.n_kv_heads, max_queries, job.padded)
                                 : many_queries_floats(max_queries, job.padded, job.block_keys);
  job.thread_floats = round_up(floats, 16);
  return job;
}

Status attention(const ExecContext& ctx, const AttentionArgs& a) {
  if (const Status s = check_attention_args(a); s != Status::kOk) return s;
  if (a.q.rows == 0) return Status::kOk;
  AttentionJob job = plan_attention(a);
  const int64_t own = job.thread_floats * ctx.n_threads;
  const int64_t records = job.n_chunks == 1 ? 0 : job.n_chunks * a.q.rows * a.n_heads;
  const size_t floats = static_cast<size_t>(own + records * (job.padded + 2));
  job.scratch = static_cast<float*>(get_scratch(ctx, floats * sizeof(float)));
  if (job.scratch == nullptr) return Status::kOutOfMemory;
  if (job.n_chunks > 1) job.partial = job.scratch + own;
  run_tasks(ctx, job.n_blocks * job.tasks_per_chunk * job.n_chunks, attention_task, &job);
  if (job.n_chunks > 1) run_tasks(ctx, a.q.rows * a.n_kv_heads, merge_task, &job);
  return Status::kOk;
}
