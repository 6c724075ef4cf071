// Few rows of x (decode steps): dot products straight from the stored blocks, at memory speed. Each group's
// codes are multiplied with x unscaled, then the sum is scaled once; mins meet sums of x taken once per op.

constexpr int kMaxCols = 4;       // rows of x that one pass over the weights serves
constexpr int64_t kAhead = 4096;  // bytes: hardware prefetchers stop at the page's end
constexpr int kRowsAtOnce = 32;   // outputs between two epilogues: their weights stay in L2 for the next pass

struct GemvJob {
  const MatmulArgs* args;
  const float* x;     // [T][x_stride], 64-byte aligned, zero-padded
  const float* sums;  // [T][sum_stride]: sums of x over the groups of w's type; null where unused
  int64_t x_stride;
  int64_t sum_stride;
  int64_t rows_per_task;
};

// out[c] = w . x[col + c] for one row of w.
template <class Q, int kCols>
void dot_blocks(const GemvJob& job, const void* w, int64_t col, float* out) {
  constexpr int kAcc = kCols == 1 ? 2 : 1;  // one column alone needs two chains to hide the latency of FMA
  constexpr int kGroups = kSuper / Q::kGroup;
  constexpr int kPerGroup = Q::kGroup / kLanes;
  const float* x0 = job.x + col * job.x_stride;
  const float* sums0 = Q::kHasMin ? job.sums + col * job.sum_stride : nullptr;
  Vf acc[kCols][kAcc];
  V8 mins[kCols];
  TT_UNROLL
  for (int c = 0; c < kCols; ++c) {
    for (int i = 0; i < kAcc; ++i) acc[c][i] = vzero();
    mins[c] = v8_zero();
  }
  for_each_super<Q>(w, job.args->w.cols, [&](const typename Q::Block* blocks, int64_t b) TT_LAMBDA_INLINE {
    const float* x = x0 + b * kSuper;
    TT_UNROLL
    for (int64_t i = 0; i < kBlocks<Q> * static_cast<int64_t>(sizeof(typename Q::Block)); i += 64) {
      prefetch(blocks, kAhead + i);
    }
    Scales s;
    Q::scales(blocks, s);
    spill(s.scale);
    TT_UNROLL
    for (int part = 0; part < kParts; ++part) {
      const Codes q = Q::codes(blocks, part);
      TT_UNROLL
      for (int h = 0; h < 32 / Q::kGroup; ++h) {
        const int g = part * (32 / Q::kGroup) + h;
        const Vf scale = vset1(s.scale[g]);
        TT_UNROLL
        for (int c = 0; c < kCols; ++c) {
          const float* p = x + c * job.x_stride + g * Q::kGroup;
          Vf dot = vmul(q.v[h * kPerGroup], vload(p));
          TT_UNROLL
          for (int j = 1; j < kPerGroup; ++j) dot = vfma(q.v[h * kPerGroup + j], vload(p + j * kLanes), dot);
          acc[c][g % kAcc] = vfma(scale, dot, acc[c][g % kAcc]);
        }
      }
    }
    if constexpr (Q::kHasMin) {
      TT_UNROLL
      for (int c = 0; c < kCols; ++c) {
        const float* sums = sums0 + c * job.sum_stride + b * kGroups;
        mins[c] = v8_fma(s.min[0], v8_load(sums), mins[c]);
        if constexpr (kGroups == 16) mins[c] = v8_fma(s.min[1], v8_load(sums + 8), mins[c]);
      }
    }
  });
  TT_UNROLL
  for (int c = 0; c < kCols; ++c) {
    const Vf v = kAcc == 1 ? acc[c][0] : vadd(acc[c][0], acc[c][kAcc - 1]);
    out[c] = vreduce_add(v) + (Q::kHasMin ? v8_sum(mins[c]) : 0.0f);
  }
}

template <class D, int kCols>
void dot_dense(const GemvJob& job, const void* w, int64_t col, float* out) {
  constexpr int kAcc = kCols == 1 ? 4 : 2;
  const auto* p = static_cast<const typename D::Element*>(w);
  const int64_t n = job.args->w.cols;
  const float* x = job.x + col * job.x_stride;
  Vf acc[kCols][kAcc];
  TT_UNROLL
  for (int c = 0; c < kCols; ++c) {
    for (int i = 0; i < kAcc; ++i) acc[c][i] = vzero();
  }
  int64_t k = 0;
  for (; k + kAcc * kLanes <= n; k += kAcc * kLanes) {
    prefetch(p + k, kAhead);
    TT_UNROLL
    for (int i = 0; i < kAcc; ++i) {
      const Vf v = D::load(p + k + i * kLanes);
      TT_UNROLL
      for (int c = 0; c < kCols; ++c) {
        acc[c][i] = vfma(v, vload(x + c * job.x_stride + k + i * kLanes), acc[c][i]);
      }
    }
  }
  for (; k < n; k += kLanes) {
    const Vf v = n - k >= kLanes ? D::load(p + k) : D::load_n(p + k, n - k);
    for (int c = 0; c < kCols; ++c) acc[c][0] = vfma(v, vload(x + c * job.x_stride + k), acc[c][0]);
  }
  for (int c = 0; c < kCols; ++c) {
    Vf v = acc[c][0];
    for (int i = 1; i < kAcc; ++i) v = vadd(v, acc[c][i]);
    out[c] = vreduce_add(v);
  }
}

using DotFn = void (*)(const GemvJob& job, const void* w, int64_t col, float* out);

struct GemvKernel {
  DotFn dot[kMaxCols];  // by number of columns - 1
  int group;            // elements per sum of x, 0 where the type has no mins
};

template <class Q>
constexpr GemvKernel kBlockGemv = {{dot_blocks<Q, 1>, dot_blocks<Q, 2>, dot_blocks<Q, 3>, dot_blocks<Q, 4>},
                                   Q::kHasMin ? Q::kGroup : 0};
template <class D>
constexpr GemvKernel kDenseGemv = {{dot_dense<D, 1>, dot_dense<D, 2>, dot_dense<D, 3>, dot_dense<D, 4>}, 0};

const GemvKernel& gemv_kernel(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF16:
      return kDenseGemv<F16>;
    case Dtype::kBF16:
      return kDenseGemv<BF16>;
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return kBlockGemv<name>;
      TT_BLOCK_TYPES(TT_CASE)
#undef TT_CASE
    default:
      return kDenseGemv<F32>;
  }
}

void gemv_task(void* arg, int64_t task, int32_t) {
  const auto* job = static_cast<const GemvJob*>(arg);
  const MatmulArgs& a = *job->args;
  const GemvKernel& kernel = gemv_kernel(a.w.dtype);
  const int64_t end = imin((task + 1) * job->rows_per_task, a.w.rows);
  const int64_t n_passes = ceil_div(a.x.rows, kMaxCols);
  for (int64_t n = task * job->rows_per_task; n < end; n += kRowsAtOnce) {
    const int64_t rows = imin(kRowsAtOnce, end - n);
    for (int64_t pass = 0; pass < n_passes; ++pass) {
      const int64_t col = a.x.rows * pass / n_passes;
      const int64_t cols = a.x.rows * (pass + 1) / n_passes - col;
      alignas(64) float sums[kMaxCols][kRowsAtOnce];
      for (int64_t r = 0; r < rows; ++r) {
        float dots[kMaxCols];
        kernel.dot[cols - 1](*job, static_cast<const char*>(a.w.data) + (n + r) * a.w.stride, col, dots);
        for (int64_t c = 0; c < cols; ++c) sums[c][r] = dots[c];
      }
      for (int64_t c = 0; c < cols; ++c) finish_row(a, col + c, n, sums[c], rows);
    }
  }
}

// Copies x to aligned, padded rows and sums its groups.
void gemv_prepare(const MatmulArgs& a, int group, float* x, float* sums, const GemvJob& job) {
  const int64_t k = a.x.cols;
  for (int64_t t = 0; t < a.x.rows; ++t) {
    float* row = x + t * job.x_stride;
    memcpy(row, f32_row(a.x, t), static_cast<size_t>(k) * sizeof(float));
    for (int64_t i = k; i < job.x_stride; ++i) row[i] = 0.0f;
    if (group == 0) continue;
    for (int64_t g = 0; g < job.sum_stride; ++g) {
      Vf sum = vzero();
      for (int64_t i = 0; i < group; i += kLanes) sum = vadd(sum, vload(row + g * group + i));
      sums[t * job.sum_stride + g] = vreduce_add(sum);
    }
  }
}

Status gemv(const ExecContext& ctx, const MatmulArgs& a) {
  const int group = gemv_kernel(a.w.dtype).group;
  GemvJob job;
  job.args = &a;
  job.x_stride = round_up(imax(a.x.cols, 1), kSuper);
  job.sum_stride = group == 0 ? 0 : job.x_stride / group;
  const int64_t floats = a.x.rows * (job.x_stride + job.sum_stride);
  auto* x = static_cast<float*>(get_scratch(ctx, static_cast<size_t>(floats) * sizeof(float)));
  if (x == nullptr) return Status::kOutOfMemory;
  float* sums = x + a.x.rows * job.x_stride;
  gemv_prepare(a, group, x, sums, job);
  job.x = x;
  job.sums = sums;
  // Eight tasks a thread level out foreign load; below some 100k products a hand-out costs more than it
  // saves.
  const int64_t share = ceil_div(a.w.rows, ctx.n_threads > 1 ? 8 * ctx.n_threads : 1);
  const int64_t least = ceil_div(100000, imax(1, a.w.cols * a.x.rows));
  job.rows_per_task = round_up(imax(share, least), kRowsAtOnce);
  run_tasks(ctx, ceil_div(a.w.rows, job.rows_per_task), gemv_task, &job);
  return Status::kOk;
}
