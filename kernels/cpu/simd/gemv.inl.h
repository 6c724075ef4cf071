// Few rows of x (decode steps): dot products straight from the stored blocks, at memory speed. Each group's
// codes are multiplied with x unscaled, then the sum is scaled once; mins meet sums of x taken once per op.

constexpr int64_t kFloatsInL1 = 8192;  // of x: 32 KiB
constexpr int kMaxRows = 8;            // rows of weights that one dot product serves

struct GemvJob {
  const MatmulArgs* args;
  const float* x;     // [T][x_stride], 64-byte aligned, zero-padded
  const float* sums;  // [T][sum_stride]: sums of x over the groups of w's type; null where unused
  int64_t x_stride;
  int64_t sum_stride;
  int64_t rows_per_task;
  int group;  // elements per sum of x, 0 where w's type has no mins
};

// One call of a dot product: n elements of a row of w with those of some rows of x.
struct Dot {
  const void* w;
  int64_t w_stride;  // bytes between rows
  int64_t n;
  const float* x;     // first element and first row
  const float* sums;  // of its groups
  int64_t x_stride;
  int64_t sum_stride;
  int64_t ahead;  // bytes from w to what will be read soon
};

// out[c] = w . x[c].
template <class Q, int kCols>
void dot_blocks(const Dot& dot, float* out) {
  constexpr int kAcc = kCols == 1 ? 2 : 1;  // one column alone needs two chains to hide the latency of FMA
  constexpr int kGroups = kSuper / Q::kGroup;
  constexpr int kPerGroup = Q::kGroup / kLanes;
  Vf acc[kCols][kAcc];
  V8 mins[kCols];
  TT_UNROLL
  for (int c = 0; c < kCols; ++c) {
    for (int i = 0; i < kAcc; ++i) acc[c][i] = vzero();
    mins[c] = v8_zero();
  }
  for_each_super<Q>(dot.w, dot.n, [&](const typename Q::Block* blocks, int64_t b) TT_LAMBDA_INLINE {
    const float* x = dot.x + b * kSuper;
    TT_UNROLL
    for (int64_t i = 0; i < kBlocks<Q> * static_cast<int64_t>(sizeof(typename Q::Block)); i += 64) {
      prefetch(blocks, dot.ahead + i);
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
          const float* p = x + c * dot.x_stride + g * Q::kGroup;
          Vf part_sum = vmul(q.v[h * kPerGroup], vload(p));
          TT_UNROLL
          for (int j = 1; j < kPerGroup; ++j)
            part_sum = vfma(q.v[h * kPerGroup + j], vload(p + j * kLanes), part_sum);
          acc[c][g % kAcc] = vfma(scale, part_sum, acc[c][g % kAcc]);
        }
      }
    }
    if constexpr (Q::kHasMin) {
      TT_UNROLL
      for (int c = 0; c < kCols; ++c) {
        const float* sums = dot.sums + c * dot.sum_stride + b * kGroups;
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

// Rows of a dense matrix that are read side by side: as many streams keep memory busy, and each sum is one
// chain, so that a row's result does not depend on its neighbours.
template <int kCols>
constexpr int kDenseRows = kCols == 1   ? 8
                           : kCols == 2 ? 4
                                        : 2;

// out[r * kMaxCols + c] = (row r of w) . x[c]; rows lie w_stride bytes apart.
template <class D, int kCols, int kRows>
void dot_dense(const Dot& dot, float* out) {
  using Element = typename D::Element;
  const int64_t n = dot.n;
  const float* x = dot.x;
  const Element* rows[kRows];
  Vf acc[kRows][kCols];
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    rows[r] = reinterpret_cast<const Element*>(static_cast<const char*>(dot.w) + r * dot.w_stride);
    for (int c = 0; c < kCols; ++c) acc[r][c] = vzero();
  }
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) {
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vf v = D::load(rows[r] + k);
      TT_UNROLL
      for (int c = 0; c < kCols; ++c) acc[r][c] = vfma(v, vload(x + c * dot.x_stride + k), acc[r][c]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kCols; ++c) {
      if (k < n) acc[r][c] = vfma(D::load_n(rows[r] + k, n - k), vload(x + c * dot.x_stride + k), acc[r][c]);
      out[r * kMaxCols + c] = vreduce_add(acc[r][c]);
    }
  }
}

using DotFn = void (*)(const Dot& dot, float* out);

// By number of columns - 1: a dot product of one row, and one of `rows` rows at once.
struct ColumnsKernel {
  DotFn one;
  DotFn many;
  int rows;
};

struct GemvKernel {
  ColumnsKernel columns[kMaxCols];
  int group;  // as in GemvJob
};

template <class Q, int kCols>
constexpr ColumnsKernel kBlockColumns = {dot_blocks<Q, kCols>, dot_blocks<Q, kCols>, 1};
template <class Q>
constexpr GemvKernel kBlockGemv = {
    {kBlockColumns<Q, 1>, kBlockColumns<Q, 2>, kBlockColumns<Q, 3>, kBlockColumns<Q, 4>},
    Q::kHasMin ? Q::kGroup : 0};
template <class D, int kCols>
constexpr ColumnsKernel kDenseColumns = {dot_dense<D, kCols, 1>, dot_dense<D, kCols, kDenseRows<kCols>>,
                                         kDenseRows<kCols>};
template <class D>
constexpr GemvKernel kDenseGemv = {
    {kDenseColumns<D, 1>, kDenseColumns<D, 2>, kDenseColumns<D, 3>, kDenseColumns<D, 4>}, 0};

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

// sums[c][r] = w[n + r] . x[col + c], in pieces of the rows: the pieces of x stay in L1.
void dot_rows(const GemvJob& job, int64_t n, int64_t rows, int64_t col, int64_t cols,
              float (&sums)[kMaxCols][kRowsAtOnce]) {
  const ConstMatrix& w = job.args->w;
  const ColumnsKernel& kernel = gemv_kernel(w.dtype).columns[cols - 1];
  const int64_t pieces = ceil_div(imax(1, w.cols), kFloatsInL1 / cols);
  const int64_t piece = round_up(ceil_div(imax(1, w.cols), pieces), kSuper);
  const int64_t piece_bytes = row_bytes(w.dtype, kSuper) * (piece / kSuper);
  for (int64_t k = 0; k == 0 || k < w.cols; k += piece) {
    Dot dot;
    dot.n = imin(piece, w.cols - k);
    dot.w_stride = w.cols == 0 ? 0 : w.stride;
    dot.x = job.x + col * job.x_stride + k;
    dot.sums = job.group == 0 ? nullptr : job.sums + col * job.sum_stride + k / job.group;
    dot.x_stride = job.x_stride;
    dot.sum_stride = job.sum_stride;
    dot.ahead = pieces == 1 ? kAhead : ceil_div(kAhead, piece_bytes) * w.stride;
    for (int64_t r = 0; r < rows;) {
      // Without columns there may be no data: nothing is read, and no address is computed either.
      dot.w = w.cols == 0 ? nullptr
                          : static_cast<const char*>(w.data) + (n + r) * w.stride + k / piece * piece_bytes;
      const bool whole = rows - r >= kernel.rows;
      const int64_t taken = whole ? kernel.rows : 1;
      float dots[kMaxRows][kMaxCols];
      (whole ? kernel.many : kernel.one)(dot, dots[0]);
      for (int64_t i = 0; i < taken; ++i, ++r) {
        for (int64_t c = 0; c < cols; ++c) sums[c][r] = k == 0 ? dots[i][c] : sums[c][r] + dots[i][c];
      }
    }
  }
}

void gemv_task(void* arg, int64_t task, int32_t) {
  const auto* job = static_cast<const GemvJob*>(arg);
  const MatmulArgs& a = *job->args;
  const int64_t end = imin((task + 1) * job->rows_per_task, a.w.rows);
  const int64_t n_passes = ceil_div(a.x.rows, kMaxCols);
  for (int64_t n = task * job->rows_per_task; n < end; n += kRowsAtOnce) {
    const int64_t rows = imin(kRowsAtOnce, end - n);
    for (int64_t pass = 0; pass < n_passes; ++pass) {
      const int64_t col = a.x.rows * pass / n_passes;
      const int64_t cols = a.x.rows * (pass + 1) / n_passes - col;
      alignas(64) float sums[kMaxCols][kRowsAtOnce];
      dot_rows(*job, n, rows, col, cols, sums);
      for (int64_t c = 0; c < cols; ++c) finish_row(a, col + c, n, sums[c], rows);
    }
  }
}

// Row t of x as the weights shall meet it.
void copy_normed(const MatmulArgs& a, int64_t t, float* out) {
  const float* x = f32_row(a.x, t);
  if (a.norm.kind == RowNorm::Kind::kNone) {
    memcpy(out, x, static_cast<size_t>(a.x.cols) * sizeof(float));
  } else {
    norm_piece(a.norm, row_moments(a.norm, x, a.x.cols), x, 0, a.x.cols, out);
  }
}

// Copies x, normed where it shall be, to aligned, padded rows and sums its groups.
void gemv_prepare(const GemvJob& job, float* x, float* sums) {
  const MatmulArgs& a = *job.args;
  const int group = job.group;
  const int64_t k = a.x.cols;
  for (int64_t t = 0; t < a.x.rows; ++t) {
    float* row = x + t * job.x_stride;
    if (k > 0) copy_normed(a, t, row);
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
  job.group = group;
  job.x_stride = round_up(imax(a.x.cols, 1), kSuper);
  job.sum_stride = group == 0 ? 0 : job.x_stride / group;
  const int64_t floats = a.x.rows * (job.x_stride + job.sum_stride);
  auto* x = static_cast<float*>(get_scratch(ctx, static_cast<size_t>(floats) * sizeof(float)));
  if (x == nullptr) return Status::kOutOfMemory;
  float* sums = x + a.x.rows * job.x_stride;
  gemv_prepare(job, x, sums);
  job.x = x;
  job.sums = sums;
  job.rows_per_task = gemv_rows_per_task(ctx, a);
  run_tasks(ctx, ceil_div(a.w.rows, job.rows_per_task), gemv_task, &job);
  return Status::kOk;
}
