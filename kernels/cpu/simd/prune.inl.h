// Selection of visual tokens: unit rows, sums of rows, Gram matrices, greedy picks.

constexpr int64_t kRowElemsPerTask = 32768;

// ---- unit_rows ----

// Scalar and in double: rows whose squares leave the range of f32, a NaN or an infinity among them.
void unit_row_wide(float* row, int64_t n, float* norm_out) {
  double squares = 0.0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(row[i]) * static_cast<double>(row[i]);
  const double norm = sqrt(squares);
  for (int64_t i = 0; i < n; ++i) {
    row[i] = norm == 0.0 ? 0.0f : static_cast<float>(static_cast<double>(row[i]) / norm);
  }
  *norm_out = static_cast<float>(norm);
}

float unit_row(float* out, const void* x, Dtype dtype, int64_t n) {
  constexpr int kSums = 4;
  Vf sums[kSums];
  TT_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] = vzero();
  for (int64_t i = 0; i < n; i += kSums * kLanes) {
    TT_UNROLL
    for (int u = 0; u < kSums; ++u) {
      const int64_t at = i + u * kLanes;
      const int64_t m = imin(kLanes, n - at);
      if (m <= 0) break;
      const bool whole = m == kLanes;
      Vf v;
      if (dtype == Dtype::kF32) {
        const float* p = static_cast<const float*>(x) + at;
        v = whole ? vload(p) : vload_n(p, m);
      } else {
        const uint16_t* p = static_cast<const uint16_t*>(x) + at;
        v = whole ? vload_f16(p) : vload_f16_n(p, m);
      }
      if (whole) {
        vstore(out + at, v);
      } else {
        vstore_n(out + at, v, m);
      }
      sums[u] = vfma(v, v, sums[u]);
    }
  }
  const float squares = vreduce_add(vadd(vadd(sums[0], sums[1]), vadd(sums[2], sums[3])));
  float norm;
  // Below, squares of single elements would be subnormal; above, they would overflow.
  if (!(squares > 1e-20f && squares < 1e30f)) {
    unit_row_wide(out, n, &norm);
    return norm;
  }
  norm = sqrtf(squares);
  const Vf scale = vset1(norm);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t m = imin(kLanes, n - i);
    if (m == kLanes) {
      vstore(out + i, vdiv(vload(out + i), scale));
    } else {
      vstore_n(out + i, vdiv(vload_n(out + i, m), scale), m);
    }
  }
  return norm;
}

struct UnitJob {
  const UnitRowsArgs* args;
  int64_t rows_per_task;
};

void unit_task(void* arg, int64_t task, int32_t) {
  const auto* job = static_cast<const UnitJob*>(arg);
  const UnitRowsArgs& a = *job->args;
  const int64_t end = imin((task + 1) * job->rows_per_task, a.out.rows);
  for (int64_t t = task * job->rows_per_task; t < end; ++t) {
    const void* x = static_cast<const char*>(a.x.data) + t * a.x.stride;
    const float norm = unit_row(f32_row(a.out, t), x, a.x.dtype, a.x.cols);
    if (a.norms != nullptr) a.norms[t] = norm;
  }
}

Status unit_rows(const ExecContext& ctx, const UnitRowsArgs& a) {
  if (const Status s = check_unit_rows_args(a); s != Status::kOk) return s;
  if (a.out.rows == 0) return Status::kOk;
  UnitJob job;
  job.args = &a;
  job.rows_per_task = imax(1, kRowElemsPerTask / imax(1, a.x.cols));
  run_tasks(ctx, ceil_div(a.out.rows, job.rows_per_task), unit_task, &job);
  return Status::kOk;
}

// ---- sum_rows ----

constexpr int kSumVectors = 4;     // columns of one task, in vectors
constexpr int64_t kSumGroup = 32;  // rows summed apart: the error grows with the groups, not the rows

// out[0 .. n) of one group of rows of x, n <= kSumVectors * kLanes.
void sum_columns(const SumRowsArgs& a, int64_t begin, int64_t end, int64_t column, int64_t n, float* out) {
  Vf total[kSumVectors];
  for (int v = 0; v < kSumVectors; ++v) total[v] = vzero();
  for (int64_t t0 = begin; t0 < end; t0 += kSumGroup) {
    Vf part[kSumVectors];
    for (int v = 0; v < kSumVectors; ++v) part[v] = vzero();
    const int64_t t1 = imin(end, t0 + kSumGroup);
    for (int64_t t = t0; t < t1; ++t) {
      const float* x = f32_row(a.x, t) + column;
      const Vf w = vset1(a.weight == nullptr ? 1.0f : a.weight[t]);
      for (int v = 0; v < kSumVectors; ++v) {
        const int64_t m = imin(kLanes, n - v * kLanes);
        if (m <= 0) break;
        const Vf value = m == kLanes ? vload(x + v * kLanes) : vload_n(x + v * kLanes, m);
        part[v] = vfma(value, w, part[v]);
      }
    }
    for (int v = 0; v < kSumVectors; ++v) total[v] = vadd(total[v], part[v]);
  }
  for (int v = 0; v < kSumVectors; ++v) {
    const int64_t m = imin(kLanes, n - v * kLanes);
    if (m <= 0) break;
    vstore_n(out + v * kLanes, total[v], m);
  }
}

void sum_task(void* arg, int64_t task, int32_t) {
  const SumRowsArgs& a = *static_cast<const SumRowsArgs*>(arg);
  constexpr int64_t kWidth = kSumVectors * kLanes;
  const int64_t blocks = ceil_div(a.out.cols, kWidth);
  const int64_t b = task / blocks;
  const int64_t column = task % blocks * kWidth;
  sum_columns(a, a.begin[b], a.begin[b + 1], column, imin(kWidth, a.out.cols - column),
              f32_row(a.out, b) + column);
}

Status sum_rows(const ExecContext& ctx, const SumRowsArgs& a) {
  if (const Status s = check_sum_rows_args(a); s != Status::kOk) return s;
  SumRowsArgs* args = const_cast<SumRowsArgs*>(&a);  // tasks take void*, and only read it
  run_tasks(ctx, a.out.rows * ceil_div(a.out.cols, kSumVectors * kLanes), sum_task, args);
  return Status::kOk;
}

// ---- gram: the GEMM of gemm.inl.h with x on both sides, tiles below the diagonal left out. ----

constexpr int64_t kGramRows = 504;  // of one round: whole panels on every ISA

struct GramJob {
  GemmJob gemm;
  int64_t first_strip;
  int64_t n_tasks;
  int64_t max_strips;  // of one task
};

// Both places of every sum of one tile whose column is not left of its row.
void store_tile(const Matrix& out, int64_t i0, int64_t rows, int64_t j0, int64_t cols, const float* sums) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t skip = imax(0, i0 + r - j0);
    float* p = f32_row(out, i0 + r) + j0;
    for (int64_t c = skip; c < cols; ++c) p[c] = sums[r * kNr + c];
  }
  for (int64_t c = 0; c < cols; ++c) {
    float* p = f32_row(out, j0 + c) + i0;
    const int64_t n = imin(rows, j0 + c - i0 + 1);
    for (int64_t r = 0; r < n; ++r) p[r] = sums[r * kNr + c];
  }
}

void gram_task(void* arg, int64_t task, int32_t thread) {
  const auto* gram_job = static_cast<const GramJob*>(arg);
  const GemmJob& job = gram_job->gemm;
  const ConstMatrix& x = job.args->x;
  const int64_t n_strips = job.n_strips - gram_job->first_strip;
  const int64_t strip0 = gram_job->first_strip + split(n_strips, gram_job->n_tasks, task);
  const int64_t strip1 = gram_job->first_strip + split(n_strips, gram_job->n_tasks, task + 1);
  float* rows = job.work + thread * job.work_words;
  float* strip = rows + kLanes * kRowWords;
  float* sums = strip + kKc * kNr;
  for (int64_t k = 0; k < x.cols; k += kKc) {
    const int64_t kc = imin(kKc, x.cols - k);
    for (int64_t s = strip0; s < strip1; ++s) {
      const int64_t next =
          s + 1 < strip1 ? kNr * x.stride : job.w_block_bytes - (s - strip0) * kNr * x.stride;
      pack_strip(job, s * kNr, k, kc, next, rows, strip);
      const int64_t n_cols = imin(kNr, x.rows - s * kNr);
      for (int64_t p = 0; p < job.n_panels; ++p) {
        const int64_t first = split(job.rows, job.n_panels, p);
        if (job.row0 + first >= s * kNr + n_cols) break;
        const int64_t n_rows = split(job.rows, job.n_panels, p + 1) - first;
        const float* panel = job.packed + (k / kKc * job.n_panels + p) * job.slot;
        float* c = sums + ((s - strip0) * job.rows + first) * kNr;
        kMultiplyF32[n_rows - 1](panel, strip, kc, c, k == 0);
        if (k + kc == x.cols) store_tile(job.args->out, job.row0 + first, n_rows, s * kNr, n_cols, c);
      }
    }
  }
}

void gram_round(const ExecContext& ctx, GramJob& job) {
  GemmJob& g = job.gemm;
  g.n_panels = ceil_div(g.rows, kF32Rows);
  job.first_strip = g.row0 / kNr;
  const int64_t n_strips = g.n_strips - job.first_strip;
  job.n_tasks = imin(n_strips, imax(ceil_div(n_strips, job.max_strips), 8 * ctx.n_threads));
  run_tasks(ctx, g.n_panels, pack_task, &g);
  run_tasks(ctx, job.n_tasks, gram_task, &job);
}

Status gram(const ExecContext& ctx, const GramArgs& a) {
  if (const Status s = check_gram_args(a); s != Status::kOk) return s;
  if (a.first == a.last) return Status::kOk;
  const int64_t depth = a.x.cols;
  if (depth == 0) {
    for (int64_t i = a.first; i < a.last; ++i) {
      for (int64_t j = i; j < a.x.rows; ++j) f32_row(a.out, i)[j] = f32_row(a.out, j)[i] = 0.0f;
    }
    return Status::kOk;
  }
  const ConstMatrix none(nullptr, Dtype::kF32, 0, 0, 0);
  const RowNorm no_norm = {RowNorm::Kind::kNone, nullptr, nullptr, 0.0f};
  const MatmulArgs args{a.out, a.x,           a.x,     nullptr, Activation::kNone,
                        none,  Compute::kF32, no_norm, none,    nullptr};
  GramJob job;
  GemmJob& g = job.gemm;
  g.args = &args;
  const GemmKernel kernel = f32_gemm_kernel(Dtype::kF32);
  g.kernel = &kernel;
  g.w_block_bytes = kKc * static_cast<int64_t>(sizeof(float));
  g.n_strips = ceil_div(a.x.rows, kNr);
  g.slot = panel_slot(kernel);
  g.rows = imin(kGramRows, a.last - a.first);
  job.max_strips = kTaskOutputs / kNr;
  g.work_words = kLanes * kRowWords + kKc * kNr + job.max_strips * kNr * g.rows;
  const int64_t packed_words = ceil_div(depth, kKc) * ceil_div(g.rows, kF32Rows) * g.slot;
  if (!take_scratch(ctx, packed_words, &g)) return Status::kOutOfMemory;
  for (g.row0 = a.first; g.row0 < a.last; g.row0 += g.rows) {
    g.rows = imin(g.rows, a.last - g.row0);
    gram_round(ctx, job);
  }
  return Status::kOk;
}

// ---- greedy_pick ----

TT_INLINE Vf load_or(const float* p, int64_t m, float rest) {
  return m == kLanes ? vload(p) : vselect(vfirst(m), vload_n(p, m), vset1(rest));
}

float smallest(const float* p, int64_t n) {
  Vf low = vset1(INFINITY);
  for (int64_t i = 0; i < n; i += kLanes) low = vmin(low, load_or(p + i, imin(kLanes, n - i), INFINITY));
  return -vreduce_max(vneg(low));
}

float largest(const float* p, int64_t n) {
  Vf high = vset1(-INFINITY);
  for (int64_t i = 0; i < n; i += kLanes) high = vmax(high, load_or(p + i, imin(kLanes, n - i), -INFINITY));
  return vreduce_max(high);
}

// The first index whose element is at most (or at least) `value`; 0 where a NaN hides it.
template <bool kAtMost>
int64_t first_index(const float* p, int64_t n, float value) {
  const Vf v = vset1(value);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    if (kAtMost ? vany(vge(v, vload(p + i))) : vany(vge(vload(p + i), v))) break;
  }
  for (; i < n; ++i) {
    if (kAtMost ? p[i] <= value : p[i] >= value) return i;
  }
  return 0;
}

// state += g or state = max(state, g); the smallest element of the result.
template <bool kSum>
float update_state(float* state, const float* g, int64_t n) {
  Vf low = vset1(INFINITY);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vf v = kSum ? vadd(vload(state + i), vload(g + i)) : vmax(vload(state + i), vload(g + i));
    vstore(state + i, v);
    low = vmin(low, v);
  }
  float rest = INFINITY;
  for (; i < n; ++i) {
    state[i] = kSum ? state[i] + g[i] : (g[i] > state[i] ? g[i] : state[i]);
    rest = state[i] < rest ? state[i] : rest;
  }
  const float found = -vreduce_max(vneg(low));
  return rest < found ? rest : found;
}

// Sum of max(0, g - best). Monotone in `best` also after rounding, because the order of the sum is fixed:
// that is what makes a gain computed earlier an upper bound.
float facility_gain(const float* g, const float* best, int64_t n) {
  constexpr int kSums = 4;
  Vf sums[kSums];
  TT_UNROLL
  for (int u = 0; u < kSums; ++u) sums[u] = vzero();
  int64_t i = 0;
  for (; i + kSums * kLanes <= n; i += kSums * kLanes) {
    TT_UNROLL
    for (int u = 0; u < kSums; ++u) {
      const Vf gain = vsub(vload(g + i + u * kLanes), vload(best + i + u * kLanes));
      sums[u] = vadd(sums[u], vmax(gain, vzero()));
    }
  }
  for (; i < n; i += kLanes) {
    const int64_t m = imin(kLanes, n - i);
    const Vf gain =
        m == kLanes ? vsub(vload(g + i), vload(best + i)) : vsub(vload_n(g + i, m), vload_n(best + i, m));
    sums[0] = vadd(sums[0], vmax(gain, vzero()));
  }
  return vreduce_add(vadd(vadd(sums[0], sums[1]), vadd(sums[2], sums[3])));
}

TT_INLINE const float* gram_row(const GreedyProblem& p, int64_t i) {
  const int64_t at = p.slot == nullptr ? i : p.slot[i];
  return at < 0 ? nullptr : f32_row(p.gram, at);
}

// The candidate with the largest gain, found by bounds; -1 when its row of the matrix is missing.
int64_t facility_next(const GreedyProblem& p, int64_t t, int64_t n) {
  const float* best = f32_row(p.state, 0);
  float* bound = f32_row(p.state, 1);
  float* round = f32_row(p.state, 2);
  while (true) {
    const int64_t i = first_index<false>(bound, n, largest(bound, n));
    const float* g = gram_row(p, i);
    if (g == nullptr) return -1;
    // A bound that is fresh is a gain, and no other candidate can reach it, or not at a lower index.
    if (round[i] == static_cast<float>(t)) return i;
    bound[i] = facility_gain(g, best, n);
    round[i] = static_cast<float>(t);
  }
}

void start_state(const GreedyProblem& p, GreedyRule rule, int64_t n) {
  float* state = f32_row(p.state, 0);
  const float start = rule == GreedyRule::kMaxSum ? 0.0f : -INFINITY;
  for (int64_t i = 0; i < n; ++i) state[i] = start;
  if (rule != GreedyRule::kFacility) return;
  float* bound = f32_row(p.state, 1);
  float* round = f32_row(p.state, 2);
  for (int64_t i = 0; i < n; ++i) {
    bound[i] = INFINITY;
    round[i] = 0.0f;
  }
}

int64_t first_pick(const GreedyProblem& p, GreedyRule rule, int64_t n) {
  if (p.first >= 0) return p.first;
  if (rule == GreedyRule::kFacility) return first_index<false>(p.total, n, largest(p.total, n));
  return first_index<true>(p.total, n, smallest(p.total, n));
}

void greedy_task(void* arg, int64_t b, int32_t) {
  const GreedyPickArgs& a = *static_cast<const GreedyPickArgs*>(arg);
  const GreedyProblem& p = a.problems[b];
  const GreedyRule rule = a.rule;
  const int64_t n = p.gram.cols;
  int64_t t = a.done[b];
  if (t >= p.count) return;
  float* state = f32_row(p.state, 0);
  int32_t* picks = reinterpret_cast<int32_t*>(static_cast<char*>(a.out.data) + b * a.out.stride);
  float* scores = a.scores.data == nullptr ? nullptr : f32_row(a.scores, b);
  if (t == 0) start_state(p, rule, n);
  float low = rule == GreedyRule::kFacility ? 0.0f : smallest(state, n);
  for (; t < p.count; ++t) {
    int64_t pick;
    float score = low;
    if (t == 0) {
      pick = first_pick(p, rule, n);
      score = p.total == nullptr ? 0.0f : p.total[pick];
    } else if (rule == GreedyRule::kFacility) {
      pick = facility_next(p, t, n);
      if (pick >= 0) score = f32_row(p.state, 1)[pick];
    } else {
      if (rule == GreedyRule::kMaxMin && low >= p.stop_at) break;
      pick = first_index<true>(state, n, low);
    }
    const float* g = pick < 0 ? nullptr : gram_row(p, pick);
    if (g == nullptr) break;
    picks[t] = static_cast<int32_t>(pick);
    if (scores != nullptr) scores[t] = score;
    if (rule == GreedyRule::kFacility) {
      f32_row(p.state, 1)[pick] = -INFINITY;
    } else {
      state[pick] = INFINITY;
    }
    low = rule == GreedyRule::kMaxSum ? update_state<true>(state, g, n) : update_state<false>(state, g, n);
  }
  a.done[b] = static_cast<int32_t>(t);
}

Status greedy_pick(const ExecContext& ctx, const GreedyPickArgs& a) {
  if (const Status s = check_greedy_pick_args(a); s != Status::kOk) return s;
  GreedyPickArgs* args = const_cast<GreedyPickArgs*>(&a);  // tasks take void*, and only read it
  run_tasks(ctx, a.out.rows, greedy_task, args);
  return Status::kOk;
}
