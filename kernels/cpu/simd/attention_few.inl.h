// attention, few queries (decode): one pass over K and V, see attention.inl.h.

// Scratch of one task: every head of every row, keys by the block. Rows of queries beyond the last are zero.
struct FewQueries {
  float* q;       // [G, rows, padded], rows: few_rows()
  float* out;     // same; not yet divided by sum
  float* max;     // [G, rows]
  float* sum;     // same
  float* scores;  // [kFewQueries, kFewKeys]
  float* k;       // [padded, kFewKeys]: transposed
};

// Queries of a head up to whole tiles.
TT_INLINE int64_t few_rows(int64_t n_queries) {
  return n_queries <= 2 ? n_queries : n_queries <= 4 ? 4 : 8;
}

int64_t few_queries_floats(int64_t n_kv_heads, int64_t n_queries, int64_t padded) {
  return n_kv_heads * few_rows(n_queries) * (2 * padded + 2) + kFewKeys * (kFewQueries + padded);
}

FewQueries carve_few_queries(const AttentionJob& job, const QueryBlock& b, float* scratch) {
  const int64_t queries = job.args->n_kv_heads * few_rows(b.n_queries);
  FewQueries w;
  w.q = scratch;
  w.out = w.q + queries * job.padded;
  w.k = w.out + queries * job.padded;
  w.scores = w.k + kFewKeys * job.padded;
  w.max = w.scores + kFewKeys * kFewQueries;
  w.sum = w.max + queries;
  return w;
}

// Rows [first, first + n) of one head of K, n <= kFewKeys, as columns; zeros up to whole vectors.
template <Dtype dtype>
void pack_columns(const AttentionJob& job, int64_t kv_head, int64_t first, int64_t n, float* out) {
  const ConstMatrix& m = job.args->k;
  const int64_t bytes = row_bytes(dtype, job.head_dim);
  const char* rows = static_cast<const char*>(m.data) + first * m.stride + kv_head * bytes;
  for (int64_t s = 0; s < n; s += kLanes, rows += kLanes * m.stride) {
    for (int64_t e = 0; e < job.head_dim; e += kLanes) {
      const int64_t width = imin(job.head_dim - e, kLanes);
      Vf x[kLanes];
      if (s + kLanes <= n && width == kLanes) {
        TT_UNROLL
        for (int j = 0; j < kLanes; ++j) {
          x[j] = load_stored<dtype>(rows + j * m.stride, e, kLanes);
          prefetch(rows + j * m.stride, kFewKeys * m.stride + bytes * e / job.head_dim);
        }
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

void pack_head_columns(const AttentionJob& job, int64_t kv_head, int64_t first, int64_t n, float* out) {
  switch (job.args->k.dtype) {
    case Dtype::kF16:
      return pack_columns<Dtype::kF16>(job, kv_head, first, n, out);
    case Dtype::kBF16:
      return pack_columns<Dtype::kBF16>(job, kv_head, first, n, out);
    case Dtype::kQ8_0:
      return pack_columns<Dtype::kQ8_0>(job, kv_head, first, n, out);
    default:
      return pack_columns<Dtype::kF32>(job, kv_head, first, n, out);
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

// Adds R rows of probabilities times keys [from, to) of V, elements [e, e + V vectors) of the head; `width`
// is kLanes, or less for the tail, where V is 1.
template <Dtype dtype, int R, int V>
TT_INLINE void few_outputs_tile(const ConstMatrix& m, const char* rows, int64_t n, int64_t e, int64_t width,
                                const float* p, float* out, int64_t out_row) {
  Vf acc[R][V];
  TT_UNROLL
  for (int r = 0; r < R; ++r) {
    TT_UNROLL
    for (int v = 0; v < V; ++v) acc[r][v] = vload(out + r * out_row + e + v * kLanes);
  }
  const int64_t block_bytes = row_bytes(dtype, 32);
  const int64_t ahead = kFewKeys * m.stride + block_bytes * e / 32;
  for (int64_t s = 0; s < n; ++s, rows += m.stride) {
    prefetch_slice(rows, ahead, V * kLanes * block_bytes / 32);
    Vf x[V];
    TT_UNROLL
    for (int v = 0; v < V; ++v) x[v] = load_stored<dtype>(rows, e + v * kLanes, width);
    TT_UNROLL
    for (int r = 0; r < R; ++r) {
      const Vf y = vset1(p[r * kFewKeys + s]);
      TT_UNROLL
      for (int v = 0; v < V; ++v) acc[r][v] = vfma(y, x[v], acc[r][v]);
    }
  }
  TT_UNROLL
  for (int r = 0; r < R; ++r) {
    TT_UNROLL
    for (int v = 0; v < V; ++v) vstore(out + r * out_row + e + v * kLanes, acc[r][v]);
  }
}

template <Dtype dtype, int R>
void few_outputs(const AttentionJob& job, int64_t kv_head, int64_t first, int64_t n, const float* p,
                 float* out) {
  constexpr int V = R * 4 <= 2 * kTileRows ? 4 : 2;
  const ConstMatrix& m = job.args->v;
  const char* rows =
      static_cast<const char*>(m.data) + first * m.stride + kv_head * row_bytes(dtype, job.head_dim);
  int64_t e = 0;
  for (; e + V * kLanes <= job.head_dim; e += V * kLanes) {
    few_outputs_tile<dtype, R, V>(m, rows, n, e, kLanes, p, out, job.padded);
  }
  for (; e + kLanes <= job.head_dim; e += kLanes) {
    few_outputs_tile<dtype, R, 1>(m, rows, n, e, kLanes, p, out, job.padded);
  }
  if (e < job.head_dim) few_outputs_tile<dtype, R, 1>(m, rows, n, e, job.head_dim - e, p, out, job.padded);
}

template <int R>
void few_outputs(const AttentionJob& job, int64_t kv_head, int64_t first, int64_t n, const float* p,
                 float* out) {
  switch (job.args->v.dtype) {
    case Dtype::kF16:
      return few_outputs<Dtype::kF16, R>(job, kv_head, first, n, p, out);
    case Dtype::kBF16:
      return few_outputs<Dtype::kBF16, R>(job, kv_head, first, n, p, out);
    case Dtype::kQ8_0:
      return few_outputs<Dtype::kQ8_0, R>(job, kv_head, first, n, p, out);
    default:
      return few_outputs<Dtype::kF32, R>(job, kv_head, first, n, p, out);
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

// One key/value head over keys [first, first + n), n <= kFewKeys; R queries at a time.
template <int R>
void few_step(const AttentionJob& job, const QueryBlock& b, const FewQueries& w, int64_t first, int64_t n) {
  const int64_t state = b.kv_head * few_rows(b.n_queries);
  const float* q = w.q + state * job.padded;
  float* out = w.out + state * job.padded;
  for (int64_t i = 0; i < b.n_queries; i += R) {
    few_scores<R>(job, w, q + i * job.padded, n, w.scores + i * kFewKeys);
  }
  int64_t from[kFewQueries];
  int64_t to[kFewQueries];
  bool same = true;  // queries that see the same keys share the loads of V
  for (int64_t i = 0; i < b.n_queries; ++i) {
    visible(job, b, i, first, n, &from[i], &to[i]);
    same = same && from[i] == from[0] && to[i] == to[0];
    few_softmax(job, from[i], to[i], w.scores + i * kFewKeys, w.max + state + i, w.sum + state + i,
                out + i * job.padded);
  }
  for (int64_t i = 0; i < b.n_queries; i += same ? R : 1) {
    const float* p = w.scores + i * kFewKeys + from[i];
    float* some = out + i * job.padded;
    if (same) {
      few_outputs<R>(job, b.kv_head, first + from[i], to[i] - from[i], p, some);
    } else {
      few_outputs<1>(job, b.kv_head, first + from[i], to[i] - from[i], p, some);
    }
  }
}

void store_few_outputs(const AttentionJob& job, const QueryBlock& b, const FewQueries& w) {
  for (int64_t i = 0; i < b.n_queries; ++i) {
    const int64_t state = b.kv_head * few_rows(b.n_queries) + i;
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
  const FewQueries w = carve_few_queries(job, b, scratch);
  const int64_t n_heads = job.args->n_kv_heads;
  // Keys are not there yet: their place holds the angles. Queries are rotated where they will lie.
  QueryAngles angles = {{nullptr, nullptr, 0, false}, -1};
  for (b.kv_head = 0; b.kv_head < n_heads; ++b.kv_head) {
    for (int64_t i = 0; i < few_rows(b.n_queries); ++i) {
      const int64_t state = b.kv_head * few_rows(b.n_queries) + i;
      w.max[state] = kLowest;
      w.sum[state] = 0.0f;
      const float* q = load_query(job, b, imin(i, b.n_queries - 1), angles, w.q + state * job.padded, w.k);
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
    for (b.kv_head = 0; b.kv_head < n_heads; ++b.kv_head) {
      pack_head_columns(job, b.kv_head, first, n, w.k);
      if (b.n_queries == 1) {
        few_step<1>(job, b, w, first, n);
      } else if (b.n_queries == 2) {
        few_step<2>(job, b, w, first, n);
      } else if (b.n_queries <= 4 || kTileRows < 8) {
        few_step<4>(job, b, w, first, n);
      } else {
        few_step<8>(job, b, w, first, n);
      }
    }
  }
  for (b.kv_head = 0; b.kv_head < n_heads; ++b.kv_head) store_few_outputs(job, b, w);
}
