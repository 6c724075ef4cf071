// attention, many queries: lanes are queries, see attention.inl.h.

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
  // Keys and values are not there yet: their places hold a vector of rotated queries, and angles.
  QueryAngles angles = {{nullptr, nullptr, 0, false}, -1};
  for (int64_t lane = 0; lane < lanes; lane += kLanes) {
    float* columns = w.q + lane / kPanel * kPanel * job.padded + lane % kPanel;
    const float* queries[kLanes];
    for (int j = 0; j < kLanes; ++j) {
      queries[j] = load_query(job, b, imin(lane + j, b.n_queries - 1), angles, w.k + j * job.padded, w.v);
    }
    for (int64_t e = 0; e < job.padded; e += kLanes) {
      const int64_t n = imax(imin(job.head_dim - e, kLanes), 0);
      Vf x[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        x[j] = vmul(vload_n(queries[j] + e, n), scale);
      }
      vtranspose(x);
      for (int j = 0; j < kLanes; ++j) vstore(columns + (e + j) * kPanel, x[j]);
    }
    vstore(w.max + lane, vset1(kLowest));
    vstore(w.sum + lane, vzero());
  }
  for (int64_t i = 0; i < lanes * job.padded; i += kLanes) vstore(w.out + i, vzero());
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

TT_INLINE bool all_finite(const float* p, int64_t n) {
  Vf sum[4] = {vzero(), vzero(), vzero(), vzero()};
  for (int64_t i = 0; i < n; i += kLanes)
    sum[i / kLanes % 4] = vfma(vload(p + i), vzero(), sum[i / kLanes % 4]);
  return vreduce_add(vadd(vadd(sum[0], sum[1]), vadd(sum[2], sum[3]))) == 0.0f;
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
  if (!all && !all_finite(keys.v + lo * job.padded, (hi - lo) * job.padded)) {
    add_outputs_exactly(job, b, panel, keys, w.scores, w.factor, out);
    return;
  }
  for (int64_t e = 0; e < job.head_dim; e += kTileRows) {
    attention_tile<kTileRows, V, Start::kScale>(keys.v + lo * job.padded + e, 1, job.padded,
                                                w.scores + lo * kPanel, kPanel, hi - lo, out + e * kPanel,
                                                kPanel, w.factor);
  }
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
    const KeyBlock keys = {w.k, w.v, first, n};
    bool packed = false;
    for (int64_t panel = 0; panel < n_panels; ++panel) {
      const PanelKeys seen = panel_keys(job, b, panel);
      if (seen.begin >= first + n || seen.end <= first) continue;
      if (!packed) {
        const int64_t n_padded = round_up(n, kTileRows);
        pack_head(job, job.args->k, b.kv_head, first, n, n_padded, w.k);
        pack_head(job, job.args->v, b.kv_head, first, n, n_padded, w.v);
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
