// Many rows of x (prefill, vision towers). x is packed once into panels of at most kMr rows, [k][row]; a task
// owns a block of outputs, decodes its weights one K block at a time into strips of kNr outputs, [k][output],
// and multiplies. Every output is summed in one fixed order (K blocks in turn, k in turn inside), so the
// cut into tasks, panels and threads never changes a result.

#if defined(__AVX512F__)
constexpr int kMr = 14;  // 28 accumulators, 2 weights, 1 broadcast of 32 registers
#elif defined(__AVX2__)
constexpr int kMr = 6;  // 12 accumulators, 2 weights, 1 broadcast of 16 registers
#else
constexpr int kMr = 12;  // 24 accumulators of 32 registers
#endif
constexpr int kNv = 2;
constexpr int kNr = kNv * kLanes;
constexpr int64_t kKc = 256;                // whole super-blocks; a strip of 256 x 32 f32 is 32 KiB
constexpr int64_t kDecoded = kKc + 16;      // row stride of decoded weights: rows fall into different L1 sets
constexpr int64_t kTaskRows = 512;          // rows of x that a task's decoded weights serve
constexpr int64_t kTaskOutputs = 128;       // outputs of one task
constexpr int64_t kPackedBytes = 24 << 20;  // packed x beyond this is done in several rounds of rows

struct GemmJob {
  const MatmulArgs* args;
  DecodeFn decode;
  int64_t w_block_bytes;  // of kKc weights in a row
  int64_t row0;           // first row of this round
  int64_t rows;
  int64_t n_panels;
  int64_t n_strips;
  int64_t row_tasks;
  int64_t output_tasks;
  float* packed;  // [K block][panel][slot]
  int64_t slot;   // floats of one panel of one K block
  float* work;    // per thread: decoded rows, one strip, sums
  int64_t work_floats;
};

TT_INLINE int64_t split(int64_t n, int64_t parts, int64_t i) {
  return n * i / parts;
}

// ---- Packing x. ----

// dst[k][r] = row r of x at column k0 + k, for `rows` <= kMr rows from t and kc columns. Writes up to kLanes
// floats beyond the last row and whole vectors of columns; the slot has room for both.
void pack_panel(const ConstMatrix& x, int64_t t, int64_t rows, int64_t k0, int64_t kc, float* dst) {
  constexpr int kRowVectors = (kMr + kLanes - 1) / kLanes;
  for (int64_t k = 0; k < kc; k += kLanes) {
    Vf tile[kRowVectors][kLanes];
    const int64_t n = imin(kLanes, kc - k);
    TT_UNROLL
    for (int v = 0; v < kRowVectors; ++v) {
      TT_UNROLL
      for (int i = 0; i < kLanes; ++i) {
        const int64_t r = v * kLanes + i;
        const float* p = f32_row(x, t + imin(r, rows - 1)) + k0 + k;
        tile[v][i] = n == kLanes ? vload(p) : vload_n(p, n);
      }
      vtranspose(tile[v]);
    }
    TT_UNROLL
    for (int i = 0; i < kLanes; ++i) {
      TT_UNROLL
      for (int v = 0; v < kRowVectors; ++v) {
        if (v * kLanes < rows) vstore(dst + (k + i) * rows + v * kLanes, tile[v][i]);
      }
    }
  }
}

void pack_task(void* arg, int64_t panel, int32_t) {
  const auto* job = static_cast<const GemmJob*>(arg);
  const int64_t first = split(job->rows, job->n_panels, panel);
  const int64_t rows = split(job->rows, job->n_panels, panel + 1) - first;
  const int64_t depth = job->args->x.cols;
  for (int64_t k = 0; k < depth; k += kKc) {
    float* dst = job->packed + (k / kKc * job->n_panels + panel) * job->slot;
    pack_panel(job->args->x, job->row0 + first, rows, k, imin(kKc, depth - k), dst);
  }
}

// ---- Decoding w. ----

// strip[k][i] = w[n0 + i][k0 + k]; outputs beyond the matrix become zeros. Rows are short pieces far apart,
// which hardware prefetchers do not follow: those of the strip that comes `next` bytes later are asked for.
void decode_strip(const GemmJob& job, int64_t n0, int64_t k0, int64_t kc, int64_t next, float* rows,
                  float* strip) {
  const ConstMatrix& w = job.args->w;
  for (int v = 0; v < kNv; ++v) {
    for (int i = 0; i < kLanes; ++i) {
      const int64_t n = n0 + v * kLanes + i;
      float* row = rows + i * kDecoded;
      if (n < w.rows) {
        const char* p = static_cast<const char*>(w.data) + n * w.stride + k0 / kKc * job.w_block_bytes;
        for (int64_t b = 0; b < job.w_block_bytes; b += 64) prefetch(p, next + b);
        job.decode(p, kc, row);
      } else {
        memset(row, 0, kKc * sizeof(float));
      }
    }
    for (int64_t k = 0; k < kc; k += kLanes) {  // columns beyond kc are never read again
      Vf tile[kLanes];
      TT_UNROLL
      for (int i = 0; i < kLanes; ++i) tile[i] = vload(rows + i * kDecoded + k);
      vtranspose(tile);
      TT_UNROLL
      for (int i = 0; i < kLanes; ++i) vstore(strip + (k + i) * kNr + v * kLanes, tile[i]);
    }
  }
}

// ---- Multiplying. ----

// sums[kRows][kNr] (+)= panel^T . strip over kc columns.
template <int kRows>
void multiply(const float* panel, const float* strip, int64_t kc, float* sums, bool first) {
  Vf acc[kRows][kNv];
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) acc[r][v] = vzero();
  }
  for (int64_t k = 0; k < kc; ++k) {
    Vf w[kNv];
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) w[v] = vload(strip + k * kNr + v * kLanes);
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vf x = vset1(panel[k * kRows + r]);
      TT_UNROLL
      for (int v = 0; v < kNv; ++v) acc[r][v] = vfma(x, w[v], acc[r][v]);
    }
  }
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) {
      float* p = sums + r * kNr + v * kLanes;
      vstore(p, first ? acc[r][v] : vadd(vload(p), acc[r][v]));
    }
  }
}

using MultiplyFn = void (*)(const float*, const float*, int64_t, float*, bool);
constexpr MultiplyFn kMultiply[] = {
    multiply<1>,  multiply<2>,  multiply<3>, multiply<4>,  multiply<5>,  multiply<6>,
#if !defined(__AVX2__) || defined(__AVX512F__)
    multiply<7>,  multiply<8>,  multiply<9>, multiply<10>, multiply<11>, multiply<12>,
#endif
#if defined(__AVX512F__)
    multiply<13>, multiply<14>,
#endif
};
static_assert(sizeof(kMultiply) / sizeof(kMultiply[0]) == kMr);

void gemm_task(void* arg, int64_t task, int32_t thread) {
  const auto* job = static_cast<const GemmJob*>(arg);
  const MatmulArgs& a = *job->args;
  const int64_t depth = a.w.cols;
  const int64_t row_task = task / job->output_tasks;
  const int64_t output_task = task % job->output_tasks;
  const int64_t panel0 = split(job->n_panels, job->row_tasks, row_task);
  const int64_t panel1 = split(job->n_panels, job->row_tasks, row_task + 1);
  const int64_t strip0 = split(job->n_strips, job->output_tasks, output_task);
  const int64_t strip1 = split(job->n_strips, job->output_tasks, output_task + 1);
  float* rows = job->work + thread * job->work_floats;
  float* strip = rows + kLanes * kDecoded;
  float* sums = strip + kKc * kNr;
  const int64_t base = split(job->rows, job->n_panels, panel0);
  const int64_t height = split(job->rows, job->n_panels, panel1) - base;

  for (int64_t k = 0; k < depth; k += kKc) {
    const int64_t kc = imin(kKc, depth - k);
    const bool last = k + kc == depth;
    for (int64_t s = strip0; s < strip1; ++s) {
      const int64_t next =
          s + 1 < strip1 ? kNr * a.w.stride : job->w_block_bytes - (s - strip0) * kNr * a.w.stride;
      decode_strip(*job, s * kNr, k, kc, next, rows, strip);
      for (int64_t p = panel0; p < panel1; ++p) {
        const int64_t first = split(job->rows, job->n_panels, p);
        const int64_t n_rows = split(job->rows, job->n_panels, p + 1) - first;
        const float* panel = job->packed + (k / kKc * job->n_panels + p) * job->slot;
        float* c = sums + ((s - strip0) * height + first - base) * kNr;
        kMultiply[n_rows - 1](panel, strip, kc, c, k == 0);
        if (!last) continue;
        for (int64_t r = 0; r < n_rows; ++r) {
          finish_row(a, job->row0 + first + r, s * kNr, c + r * kNr, imin(kNr, a.w.rows - s * kNr));
        }
      }
    }
  }
}

// Tasks as large as the caches like, then smaller until every thread has several.
void plan_tasks(GemmJob& job, int32_t n_threads) {
  int64_t strips = imax(1, kTaskOutputs / kNr);
  int64_t panels = kTaskRows / kMr;
  job.row_tasks = ceil_div(job.n_panels, panels);
  job.output_tasks = ceil_div(job.n_strips, strips);
  while (n_threads > 1 && job.row_tasks * job.output_tasks < 8 * n_threads) {
    if (strips > 1) {
      strips = ceil_div(strips, 2);
    } else if (panels > 4) {  // fewer rows would be dominated by the decoding that every row task repeats
      panels = ceil_div(panels, 2);
    } else {
      break;
    }
    job.row_tasks = ceil_div(job.n_panels, panels);
    job.output_tasks = ceil_div(job.n_strips, strips);
  }
  const int64_t width = ceil_div(job.n_strips, job.output_tasks) * kNr;
  const int64_t height = ceil_div(job.n_panels, job.row_tasks) * kMr;
  job.work_floats = kLanes * kDecoded + kKc * kNr + width * height;
}

Status gemm(const ExecContext& ctx, const MatmulArgs& a) {
  GemmJob job;
  job.args = &a;
  job.decode = decode_fn(a.w.dtype);
  job.w_block_bytes = row_bytes(a.w.dtype, kKc);
  job.n_strips = ceil_div(a.w.rows, kNr);
  const int64_t depth = a.x.cols;
  const int64_t k_blocks = ceil_div(depth, kKc);
  job.slot = round_up(round_up(imin(depth, kKc), kLanes) * kMr + kLanes, 16);
  const int64_t rounds = ceil_div(a.x.rows, imax(kTaskRows / 4, kPackedBytes / 4 / depth));
  const int64_t max_rows = ceil_div(a.x.rows, rounds);

  // Sized for the largest round; a smaller one never needs more.
  job.rows = max_rows;
  job.n_panels = ceil_div(max_rows, kMr);
  plan_tasks(job, ctx.n_threads);
  const int64_t packed_floats = k_blocks * job.n_panels * job.slot;
  const int64_t floats = packed_floats + ctx.n_threads * job.work_floats;
  job.packed = static_cast<float*>(get_scratch(ctx, static_cast<size_t>(floats) * sizeof(float)));
  if (job.packed == nullptr) return Status::kOutOfMemory;
  job.work = job.packed + packed_floats;

  for (int64_t round = 0; round < rounds; ++round) {
    job.row0 = split(a.x.rows, rounds, round);
    job.rows = split(a.x.rows, rounds, round + 1) - job.row0;
    job.n_panels = ceil_div(job.rows, kMr);
    run_tasks(ctx, job.n_panels, pack_task, &job);
    run_tasks(ctx, job.row_tasks * job.output_tasks, gemm_task, &job);
  }
  return Status::kOk;
}
