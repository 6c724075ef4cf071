// Blocked attention with an online softmax (Milakov and Gimelshein 2018, Dao et al. 2022), all in f32.
//
// A "query" is one row of one head; the heads that share a key/value head are blocked together, so a block
// of keys is widened to f32 once for all of them. Two kernels share packing, planning and merging:
//   many queries  lanes are queries: scores, maxima and outputs are kept transposed, so K and V are used as
//                 they lie, softmax needs no horizontal step and any head_dim and number of keys will do;
//   few queries   (decode) lanes are elements of the head: one pass over K and V at memory speed.
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
  bool v_finite;
};

TT_INLINE const float* query_row(const AttentionJob& job, const QueryBlock& b, int64_t i) {
  const float* row = f32_row(job.args->q, b.row0 + i / job.group);
  return row + (b.kv_head * job.group + i % job.group) * job.head_dim;
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

// Rows [first, first + n) of one head as f32, zeros up to `padded` columns and n_padded rows. Returns
// whether all are finite.
template <Dtype dtype>
bool pack_rows(const ConstMatrix& m, int64_t offset, int64_t first, int64_t n, int64_t n_padded,
               int64_t head_dim, int64_t padded, float* out) {
  Vf nan_if_not_finite = vzero();
  for (int64_t s = 0; s < n; ++s, out += padded) {
    const char* row = static_cast<const char*>(m.data) + (first + s) * m.stride + offset;
    int64_t i = 0;
    for (; i + kLanes <= head_dim; i += kLanes) {
      const Vf x = load_stored<dtype>(row, i, kLanes);
      nan_if_not_finite = vfma(x, vzero(), nan_if_not_finite);
      vstore(out + i, x);
    }
    for (; i < padded; i += kLanes) {
      const Vf x = load_stored<dtype>(row, i, imax(head_dim - i, 0));
      nan_if_not_finite = vfma(x, vzero(), nan_if_not_finite);
      vstore(out + i, x);
    }
  }
  for (int64_t i = 0; i < (n_padded - n) * padded; i += kLanes) vstore(out + i, vzero());
  return vreduce_add(nan_if_not_finite) == 0.0f;
}

bool pack_head(const AttentionJob& job, const ConstMatrix& m, int64_t kv_head, int64_t first, int64_t n,
               int64_t n_padded, float* out) {
  const int64_t offset = kv_head * row_bytes(m.dtype, job.head_dim);
  switch (m.dtype) {
    case Dtype::kF16:
      return pack_rows<Dtype::kF16>(m, offset, first, n, n_padded, job.head_dim, job.padded, out);
    case Dtype::kBF16:
      return pack_rows<Dtype::kBF16>(m, offset, first, n, n_padded, job.head_dim, job.padded, out);
    case Dtype::kQ8_0:
      return pack_rows<Dtype::kQ8_0>(m, offset, first, n, n_padded, job.head_dim, job.padded, out);
    default:  // F32, the only other dtype that the check admits
      return pack_rows<Dtype::kF32>(m, offset, first, n, n_padded, job.head_dim, job.padded, out);
  }
}

// Scores leave the first product in base 2 or, with a softcap, in its units.
TT_INLINE Vf finish_score(Vf s, float cap) {
  return cap == 0.0f ? s : vmul(vset1(cap), vtanh(s));
}

// ---- many queries ----

// Scratch of one task; panels follow each other, lane j of panel p is query p * kPanel + j.
struct ManyQueries {
  float* q;       // [n_panels, padded, kPanel]
  float* out;     // same; not yet divided by sum
  float* max;     // [n_panels, kPanel]
  float* sum;     // same
  float* factor;  // [kPanel]: what a new maximum does to earlier outputs
  float* scores;  // [block_keys, kPanel]
  float* k;       // [block_keys, padded]
  float* v;       // same
};

TT_INLINE int64_t panel_count(int64_t n_queries) {
  return ceil_div(n_queries, kPanel);
}

int64_t many_queries_floats(int64_t n_queries, int64_t padded, int64_t block_keys) {
  return panel_count(n_queries) * kPanel * (2 * padded + 2) + kPanel * (1 + block_keys) +
         2 * block_keys * padded;
}

ManyQueries carve_many_queries(const AttentionJob& job, const QueryBlock& b, float* scratch) {
  const int64_t lanes = panel_count(b.n_queries) * kPanel;
  ManyQueries w;
  w.q = scratch;
  w.out = w.q + lanes * job.padded;
  w.k = w.out + lanes * job.padded;
  w.v = w.k + job.block_keys * job.padded;
  w.scores = w.v + job.block_keys * job.padded;
  w.max = w.scores + job.block_keys * kPanel;
  w.sum = w.max + lanes;
  w.factor = w.sum + lanes;
  return w;
}

// Queries, scaled, as columns; what lies beyond the last query is a copy of it, so that no lane is special.
void pack_queries(const AttentionJob& job, const QueryBlock& b, const ManyQueries& w) {
  const Vf scale = vset1(job.q_scale);
  const int64_t lanes = panel_count(b.n_queries) * kPanel;
  for (int64_t lane = 0; lane < lanes; lane += kLanes) {
    float* columns = w.q + lane / kPanel * kPanel * job.padded + lane % kPanel;
    for (int64_t e = 0; e < job.padded; e += kLanes) {
      const int64_t n = imax(imin(job.head_dim - e, kLanes), 0);
      Vf x[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        x[j] = vmul(vload_n(query_row(job, b, imin(lane + j, b.n_queries - 1)) + e, n), scale);
      }
      vtranspose(x);
      for (int j = 0; j < kLanes; ++j) vstore(columns + (e + j) * kPanel, x[j]);
    }
    vstore(w.max + lane, vset1(kLowest));
    vstore(w.sum + lane, vzero());
  }
  for (int64_t i = 0; i < lanes * job.padded; i += kLanes) vstore(w.out + i, vzero());
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

// Scores to probabilities relative to the running maximum; updates maximum, sum and factor.
template <int V>
TT_INLINE void softmax_step(float* scores, int64_t n, float* max, float* sum, float* factor) {
  Vf top[V];
  Vf total[V];
  TT_UNROLL
  for (int v = 0; v < V; ++v) {
    top[v] = vload(max + v * kLanes);
    total[v] = vzero();
  }
  for (int64_t j = 0; j < n; ++j) {
    TT_UNROLL
    for (int v = 0; v < V; ++v) top[v] = vmax(top[v], vload(scores + j * kPanel + v * kLanes));
  }
  for (int64_t j = 0; j < n; ++j) {
    TT_UNROLL
    for (int v = 0; v < V; ++v) {
      float* s = scores + j * kPanel + v * kLanes;
      const Vf p = vexp2(vsub(vload(s), top[v]));
      total[v] = vadd(total[v], p);
      vstore(s, p);
    }
  }
  TT_UNROLL
  for (int v = 0; v < V; ++v) {
    const Vf f = vexp2(vsub(vload(max + v * kLanes), top[v]));
    vstore(factor + v * kLanes, f);
    vstore(sum + v * kLanes, vfma(vload(sum + v * kLanes), f, total[v]));
    vstore(max + v * kLanes, top[v]);
  }
}

// The keys that each lane of a panel sees, and what they have in common.
struct PanelKeys {
  int64_t begin;  // some lane sees a key in [begin, end)
  int64_t end;
  int64_t all_begin;  // every lane sees [all_begin, all_end), if that is not empty
  int64_t all_end;
};

TT_INLINE int64_t lane_row(const AttentionJob& job, const QueryBlock& b, int64_t query) {
  return b.row0 + imin(query, b.n_queries - 1) / job.group;
}

PanelKeys panel_keys(const AttentionJob& job, const QueryBlock& b, int64_t panel) {
  PanelKeys keys = {INT64_MAX, 0, 0, INT64_MAX};
  const int64_t last = lane_row(job, b, panel * kPanel + kPanel - 1);
  for (int64_t t = lane_row(job, b, panel * kPanel); t <= last; ++t) {
    const int64_t begin = job.args->begin[t];
    const int64_t end = job.args->end[t];
    if (begin < end) {
      keys.begin = imin(keys.begin, begin);
      keys.end = imax(keys.end, end);
    }
    keys.all_begin = imax(keys.all_begin, begin);
    keys.all_end = imin(keys.all_end, end);
  }
  return keys;
}

// The part of [0, n) that query i of the block sees, relative to key `first`.
TT_INLINE void visible(const AttentionJob& job, const QueryBlock& b, int64_t i, int64_t first, int64_t n,
                       int64_t* from, int64_t* to) {
  const int64_t t = lane_row(job, b, i);
  *from = imax(imin(job.args->begin[t] - first, n), 0);
  *to = imax(imin(job.args->end[t] - first, n), 0);
}

template <int V>
TT_INLINE void mask_scores(const AttentionJob& job, const QueryBlock& b, int64_t panel, const KeyBlock& keys,
                           int64_t lo, int64_t hi, float* scores) {
  float from[kPanel];
  float to[kPanel];
  for (int64_t j = 0; j < V * kLanes; ++j) {
    int64_t from_key;
    int64_t to_key;
    visible(job, b, panel * kPanel + j, keys.first, keys.n, &from_key, &to_key);
    from[j] = static_cast<float>(from_key);
    to[j] = static_cast<float>(to_key);
  }
  const Vf hidden = vset1(-INFINITY);
  for (int64_t j = lo; j < hi; ++j) {
    const Vf key = vset1(static_cast<float>(j));
    TT_UNROLL
    for (int v = 0; v < V; ++v) {
      float* s = scores + j * kPanel + v * kLanes;
      const Vf before_end = vselect(vlt(key, vload(to + v * kLanes)), vload(s), hidden);
      vstore(s, vselect(vge(key, vload(from + v * kLanes)), before_end, hidden));
    }
  }
}

// Outputs of a panel where V holds infinities or NaNs and some lane must not see them: 0 * Inf would.
void add_outputs_exactly(const AttentionJob& job, const QueryBlock& b, int64_t panel, const KeyBlock& keys,
                         const float* p, const float* factor, float* out) {
  for (int64_t j = 0; j < kPanel; ++j) {
    int64_t from;
    int64_t to;
    visible(job, b, panel * kPanel + j, keys.first, keys.n, &from, &to);
    for (int64_t e = 0; e < job.head_dim; ++e) {
      float x = out[e * kPanel + j] * factor[j];
      for (int64_t s = from; s < to; ++s) x += p[s * kPanel + j] * keys.v[s * job.padded + e];
      out[e * kPanel + j] = x;
    }
  }
}

template <int V>
void panel_step(const AttentionJob& job, const QueryBlock& b, const ManyQueries& w, int64_t panel,
                const PanelKeys& seen, const KeyBlock& keys) {
  int64_t lo = imax(seen.begin - keys.first, 0);
  int64_t hi = imin(seen.end - keys.first, keys.n);
  if (lo >= hi) return;
  lo = lo / kTileRows * kTileRows;
  hi = round_up(hi, kTileRows);
  const bool all = seen.all_begin <= keys.first + lo && keys.first + hi <= seen.all_end && hi <= keys.n;
  const float* q = w.q + panel * kPanel * job.padded;
  float* out = w.out + panel * kPanel * job.padded;
  for (int64_t s = lo; s < hi; s += kTileRows) {
    attention_tile<kTileRows, V, Start::kZero>(keys.k + s * job.padded, job.padded, 1, q, kPanel,
                                               job.head_dim, w.scores + s * kPanel, kPanel, nullptr);
  }
  if (job.cap != 0.0f) {
    for (int64_t i = lo * kPanel; i < hi * kPanel; i += kLanes) {
      vstore(w.scores + i, finish_score(vload(w.scores + i), job.cap));
    }
  }
  if (!all) mask_scores<V>(job, b, panel, keys, lo, hi, w.scores);
  softmax_step<V>(w.scores + lo * kPanel, hi - lo, w.max + panel * kPanel, w.sum + panel * kPanel, w.factor);
  if (!all && !keys.v_finite) {
    add_outputs_exactly(job, b, panel, keys, w.scores, w.factor, out);
    return;
  }
  for (int64_t e = 0; e < job.head_dim; e += kTileRows) {
    attention_tile<kTileRows, V, Start::kScale>(keys.v + lo * job.padded + e, 1, job.padded,
                                                w.scores + lo * kPanel, kPanel, hi - lo, out + e * kPanel,
                                                kPanel, w.factor);
  }
}

// 1 / sum, but 0 for a row that saw no key.
TT_INLINE Vf inverse_sum(Vf sum) {
  return vselect(vge(vzero(), sum), vzero(), vdiv(vset1(1.0f), sum));
}

void store_outputs(const AttentionJob& job, const QueryBlock& b, const ManyQueries& w) {
  for (int64_t lane = 0; lane < b.n_queries; lane += kLanes) {
    const float* columns = w.out + lane / kPanel * kPanel * job.padded + lane % kPanel;
    const Vf scale = job.partial != nullptr ? vset1(1.0f) : inverse_sum(vload(w.sum + lane));
    const int64_t n_lanes = imin(kLanes, b.n_queries - lane);
    for (int64_t e = 0; e < job.head_dim; e += kLanes) {
      Vf x[kLanes];
      for (int j = 0; j < kLanes; ++j) x[j] = vmul(vload(columns + (e + j) * kPanel), scale);
      vtranspose(x);
      const int64_t n = imin(job.head_dim - e, kLanes);
      for (int64_t j = 0; j < n_lanes; ++j) vstore_n(output_row(job, b, lane + j) + e, x[j], n);
    }
    if (job.partial == nullptr) continue;
    for (int64_t j = 0; j < n_lanes; ++j) {
      output_row(job, b, lane + j)[job.padded] = w.max[lane + j];
      output_row(job, b, lane + j)[job.padded + 1] = w.sum[lane + j];
    }
  }
}

void attend_many_queries(const AttentionJob& job, const QueryBlock& b, float* scratch) {
  const ManyQueries w = carve_many_queries(job, b, scratch);
  pack_queries(job, b, w);
  const int64_t n_panels = panel_count(b.n_queries);
  for (int64_t first = b.begin; first < b.end; first += job.block_keys) {
    const int64_t n = imin(job.block_keys, b.end - first);
    KeyBlock keys = {w.k, w.v, first, n, true};
    bool packed = false;
    for (int64_t panel = 0; panel < n_panels; ++panel) {
      const PanelKeys seen = panel_keys(job, b, panel);
      if (seen.begin >= first + n || seen.end <= first) continue;
      if (!packed) {
        const int64_t n_padded = round_up(n, kTileRows);
        pack_head(job, job.args->k, b.kv_head, first, n, n_padded, w.k);
        keys.v_finite = pack_head(job, job.args->v, b.kv_head, first, n, n_padded, w.v);
        packed = true;
      }
      const int64_t lanes = b.n_queries - panel * kPanel;
      if (lanes > 2 * kLanes) {
        panel_step<3>(job, b, w, panel, seen, keys);
      } else if (lanes > kLanes) {
        panel_step<2>(job, b, w, panel, seen, keys);
      } else {
        panel_step<1>(job, b, w, panel, seen, keys);
      }
    }
  }
  store_outputs(job, b, w);
}

// ---- few queries ----

// Scratch of one task: every head of every row, keys by the block. Rows of queries beyond the last are zero.
struct FewQueries {
  float* q;       // [G, kFewQueries, padded]
  float* out;     // same; not yet divided by sum
  float* max;     // [G, kFewQueries]
  float* sum;     // same
  float* scores;  // [kFewQueries, kFewKeys]
  float* k;       // [padded, kFewKeys]: transposed
  float* v;       // [kFewKeys, padded]
};

int64_t few_queries_floats(int64_t n_kv_heads, int64_t padded) {
  return n_kv_heads * kFewQueries * (2 * padded + 2) + kFewKeys * (kFewQueries + 2 * padded);
}

FewQueries carve_few_queries(const AttentionJob& job, float* scratch) {
  const int64_t queries = job.args->n_kv_heads * kFewQueries;
  FewQueries w;
  w.q = scratch;
  w.out = w.q + queries * job.padded;
  w.k = w.out + queries * job.padded;
  w.v = w.k + kFewKeys * job.padded;
  w.scores = w.v + kFewKeys * job.padded;
  w.max = w.scores + kFewKeys * kFewQueries;
  w.sum = w.max + queries;
  return w;
}

template <Dtype dtype>
void pack_columns(const ConstMatrix& m, int64_t offset, int64_t first, int64_t n, int64_t head_dim,
                  float* out) {
  const char* rows = static_cast<const char*>(m.data) + first * m.stride + offset;
  for (int64_t s = 0; s < n; s += kLanes, rows += kLanes * m.stride) {
    for (int64_t e = 0; e < head_dim; e += kLanes) {
      const int64_t width = imin(head_dim - e, kLanes);
      Vf x[kLanes];
      if (s + kLanes <= n && width == kLanes) {
        TT_UNROLL
        for (int j = 0; j < kLanes; ++j) x[j] = load_stored<dtype>(rows + j * m.stride, e, kLanes);
      } else {
        for (int j = 0; j < kLanes; ++j) {
          x[j] = s + j < n ? load_stored<dtype>(rows + j * m.stride, e, width) : vzero();
        }
      }
      vtranspose(x);
      TT_UNROLL
      for (int j = 0; j < kLanes; ++j) vstore(out + (e + j) * kFewKeys + s, x[j]);
    }
  }
}

// Rows [first, first + n) of one head, n <= kFewKeys, as columns; zeros up to whole vectors.
void pack_head_columns(const AttentionJob& job, int64_t kv_head, int64_t first, int64_t n, float* out) {
  const ConstMatrix& m = job.args->k;
  const int64_t offset = kv_head * row_bytes(m.dtype, job.head_dim);
  switch (m.dtype) {
    case Dtype::kF16:
      return pack_columns<Dtype::kF16>(m, offset, first, n, job.head_dim, out);
    case Dtype::kBF16:
      return pack_columns<Dtype::kBF16>(m, offset, first, n, job.head_dim, out);
    case Dtype::kQ8_0:
      return pack_columns<Dtype::kQ8_0>(m, offset, first, n, job.head_dim, out);
    default:
      return pack_columns<Dtype::kF32>(m, offset, first, n, job.head_dim, out);
  }
}

// R queries against n keys.
template <int R>
void few_scores(const AttentionJob& job, const FewQueries& w, const float* q, int64_t n, float* scores) {
  int64_t s = 0;
  for (; s + 3 * kLanes <= round_up(n, kLanes); s += 3 * kLanes) {
    attention_tile<R, 3, Start::kZero>(q, job.padded, 1, w.k + s, kFewKeys, job.head_dim, scores + s,
                                       kFewKeys, nullptr);
  }
  for (; s < n; s += kLanes) {
    attention_tile<R, 1, Start::kZero>(q, job.padded, 1, w.k + s, kFewKeys, job.head_dim, scores + s,
                                       kFewKeys, nullptr);
  }
}

// Adds R rows of probabilities times keys [from, to) of V.
template <int R>
void few_outputs(const AttentionJob& job, const FewQueries& w, const float* p, int64_t from, int64_t to,
                 float* out) {
  constexpr int V = R * 4 <= 2 * kTileRows ? 4 : 2;
  const float* v = w.v + from * job.padded;
  int64_t e = 0;
  for (; e + V * kLanes <= job.padded; e += V * kLanes) {
    attention_tile<R, V, Start::kKeep>(p + from, kFewKeys, 1, v + e, job.padded, to - from, out + e,
                                       job.padded, nullptr);
  }
  for (; e < job.padded; e += kLanes) {
    attention_tile<R, 1, Start::kKeep>(p + from, kFewKeys, 1, v + e, job.padded, to - from, out + e,
                                       job.padded, nullptr);
  }
}

// Scores of one query to probabilities over keys [from, to) of the block; earlier outputs follow the maximum.
TT_INLINE void few_softmax(const AttentionJob& job, int64_t from, int64_t to, float* scores, float* max,
                           float* sum, float* out) {
  if (from >= to) return;
  const Vf hidden = vset1(-INFINITY);
  const Vf old_top = vset1(*max);
  Vf top = old_top;
  const int64_t start = from / kLanes * kLanes;
  for (int64_t j = start; j < to; j += kLanes) {
    Vf s = finish_score(vload(scores + j), job.cap);
    if (j + kLanes > to) s = vselect(vfirst(to - j), s, hidden);
    if (j < from) s = vselect(vfirst(from - j), hidden, s);
    top = vmax(top, s);
    vstore(scores + j, s);
  }
  *max = vreduce_max(top);
  top = vset1(*max);
  Vf total = vzero();
  for (int64_t j = start; j < to; j += kLanes) {
    const Vf p = vexp2(vsub(vload(scores + j), top));
    total = vadd(total, p);
    vstore(scores + j, p);
  }
  const Vf factor = vexp2(vsub(old_top, top));
  *sum = vreduce_add(vselect(vfirst(1), vfma(vset1(*sum), factor, total), total));
  for (int64_t e = 0; e < job.padded; e += kLanes) vstore(out + e, vmul(vload(out + e), factor));
}

// Asks for rows [first, first + n): memory is slower than this kernel, and hardware prefetchers neither see a
// pattern in slices of rows nor cross a page.
TT_INLINE void prefetch_rows(const ConstMatrix& m, int64_t first, int64_t n) {
  const int64_t bytes = row_bytes(m.dtype, m.cols);
  const char* row = static_cast<const char*>(m.data) + first * m.stride;
  for (int64_t s = 0; s < n; ++s, row += m.stride) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 0, 2);
  }
}

// One key/value head over keys [first, first + n), n <= kFewKeys.
void few_step(const AttentionJob& job, const QueryBlock& b, const FewQueries& w, int64_t first, int64_t n) {
  pack_head_columns(job, b.kv_head, first, n, w.k);
  pack_head(job, job.args->v, b.kv_head, first, n, n, w.v);
  const int64_t next =
      imax(imin(b.end - first - n, kFewKeys), 0);  // each head fetches its share of the next block
  const int64_t from_row = next * b.kv_head / job.args->n_kv_heads;
  const int64_t n_rows = next * (b.kv_head + 1) / job.args->n_kv_heads - from_row;
  prefetch_rows(job.args->k, first + n + from_row, n_rows);
  prefetch_rows(job.args->v, first + n + from_row, n_rows);
  const float* q = w.q + b.kv_head * kFewQueries * job.padded;
  float* out = w.out + b.kv_head * kFewQueries * job.padded;
  const int rows = b.n_queries > 2 ? 4 : static_cast<int>(b.n_queries);  // of a tile
  for (int64_t i = 0; i < b.n_queries; i += rows) {
    float* scores = w.scores + i * kFewKeys;
    const float* some = q + i * job.padded;
    if (rows == 4) {
      few_scores<4>(job, w, some, n, scores);
    } else if (rows == 2) {
      few_scores<2>(job, w, some, n, scores);
    } else {
      few_scores<1>(job, w, some, n, scores);
    }
  }
  int64_t from[kFewQueries];
  int64_t to[kFewQueries];
  bool same = true;  // queries that see the same keys share the loads of V
  for (int64_t i = 0; i < b.n_queries; ++i) {
    visible(job, b, i, first, n, &from[i], &to[i]);
    same = same && from[i] == from[0] && to[i] == to[0];
    const int64_t state = b.kv_head * kFewQueries + i;
    few_softmax(job, from[i], to[i], w.scores + i * kFewKeys, w.max + state, w.sum + state,
                out + i * job.padded);
  }
  const int step = same ? rows : 1;
  for (int64_t i = 0; i < b.n_queries; i += step) {
    const float* p = w.scores + i * kFewKeys;
    float* some = out + i * job.padded;
    if (step == 4) {
      few_outputs<4>(job, w, p, from[i], to[i], some);
    } else if (step == 2) {
      few_outputs<2>(job, w, p, from[i], to[i], some);
    } else {
      few_outputs<1>(job, w, p, from[i], to[i], some);
    }
  }
}

void store_few_outputs(const AttentionJob& job, const QueryBlock& b, const FewQueries& w) {
  for (int64_t i = 0; i < b.n_queries; ++i) {
    const int64_t state = b.kv_head * kFewQueries + i;
    float* out = output_row(job, b, i);
    const Vf scale = job.partial != nullptr ? vset1(1.0f) : inverse_sum(vset1(w.sum[state]));
    for (int64_t e = 0; e < job.head_dim; e += kLanes) {
      vstore_n(out + e, vmul(vload(w.out + state * job.padded + e), scale), imin(job.head_dim - e, kLanes));
    }
    if (job.partial == nullptr) continue;
    out[job.padded] = w.max[state];
    out[job.padded + 1] = w.sum[state];
  }
}

// All heads together: whole rows of K and V are read from memory, not slices of them.
void attend_few_queries(const AttentionJob& job, QueryBlock& b, float* scratch) {
  const FewQueries w = carve_few_queries(job, scratch);
  const int64_t n_heads = job.args->n_kv_heads;
  for (b.kv_head = 0; b.kv_head < n_heads; ++b.kv_head) {
    for (int64_t i = 0; i < kFewQueries; ++i) {
      const int64_t state = b.kv_head * kFewQueries + i;
      w.max[state] = kLowest;
      w.sum[state] = 0.0f;
      const float* q = query_row(job, b, imin(i, b.n_queries - 1));
      const Vf scale = vset1(i < b.n_queries ? job.q_scale : 0.0f);
      for (int64_t e = 0; e < job.padded; e += kLanes) {
        const int64_t n = i < b.n_queries ? imax(imin(job.head_dim - e, kLanes), 0) : 0;
        vstore(w.q + state * job.padded + e, vmul(vload_n(q + e, n), scale));
        vstore(w.out + state * job.padded + e, vzero());
      }
    }
  }
  for (int64_t first = b.begin; first < b.end; first += kFewKeys) {
    const int64_t n = imin(kFewKeys, b.end - first);
    for (b.kv_head = 0; b.kv_head < n_heads; ++b.kv_head) few_step(job, b, w, first, n);
  }
  for (b.kv_head = 0; b.kv_head < n_heads; ++b.kv_head) store_few_outputs(job, b, w);
}

// ---- planning and merging ----

// The keys that rows [row0, row0 + rows) see lie in [*begin, *end), which is [INT64_MAX, 0) if there are
// none.
void seen_keys(const AttentionArgs& a, int64_t row0, int64_t rows, int64_t* begin, int64_t* end) {
  *begin = INT64_MAX;
  *end = 0;
  for (int64_t t = row0; t < row0 + rows; ++t) {
    if (a.begin[t] == a.end[t]) continue;
    *begin = imin(*begin, a.begin[t]);
    *end = imax(*end, a.end[t]);
  }
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
  const int64_t floats = job.few ? few_queries_floats(a.n_kv_heads, job.padded)
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
