// attention, few queries (decode): one pass over K and V, see attention.inl.h.

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

// One key/value head over keys [first, first + n), n <= kFewKeys.
void few_step(const AttentionJob& job, const QueryBlock& b, const FewQueries& w, int64_t first, int64_t n) {
  pack_head_columns(job, b.kv_head, first, n, w.k);
  pack_head(job, job.args->v, b.kv_head, first, n, n, w.v);
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
