// Many rows of x (prefill, vision towers), for every precision. Rows of x and of w become words of 32 bits,
// one K block at a time: one f32, two bf16 or four int8 each, then words of scales where there are any. Words
// are packed transposed, x once into panels, [word][row], and w by the task that owns a block of outputs into
// strips that stay in L1, [word][output]; a micro-kernel broadcasts the words of a panel against vectors of a
// strip. Every output is summed in one fixed order (K blocks in turn, words in turn inside), so the cut into
// tasks, panels and threads never changes a result.

constexpr int kNv = 2;
constexpr int kNr = kNv * kLanes;
constexpr int64_t kKc = 256;             // one super-block; a strip of 256 x 32 f32 is 32 KiB
constexpr int64_t kRowWords = kKc + 16;  // between rows of words: they fall into different L1 sets
constexpr int kMostPanelRows = 32;       // of any kernel
constexpr int64_t kTaskRows = 512;       // rows of x that a task's unpacked weights serve, usually
constexpr int64_t kTaskOutputs = 128;
constexpr int64_t kPackedBytes = 24 << 20;  // packed x beyond this is done in several rounds of rows

struct GemmKernel;

struct GemmJob {
  const MatmulArgs* args;
  const GemmKernel* kernel;
  int64_t w_block_bytes;  // of kKc weights in a row
  int64_t row0;           // first row of this round
  int64_t rows;
  int64_t n_panels;
  int64_t n_strips;
  int64_t row_tasks;
  int64_t output_tasks;
  float* packed;  // [K block][panel][slot]
  int64_t slot;   // words of one panel of one K block
  float* work;    // per thread: rows of words, one strip, sums
  int64_t work_words;
  float* unpacked;  // per thread: rows of words of x
};

// sums[rows][kNr] = or += panel^T . strip over kc elements.
using MultiplyFn = void (*)(const float* panel, const float* strip, int64_t kc, float* sums, bool first);

// Writes the words of some rows, kRowWords apart, to a panel's slot.
using PackFn = void (*)(const float* words, int64_t rows, int64_t n_words, float* slot);
void pack_panel(const float* words, int64_t rows, int64_t n_words, float* slot);
void gemm_task(void* arg, int64_t task, int32_t thread);

// One precision. Words may be of any type: only a kernel looks into its own.
struct GemmKernel {
  const MultiplyFn* multiply;  // by (the panel's rows - 1) / row_step
  int max_rows;                // of a panel, a multiple of row_step, at most kMostPanelRows
  int64_t x_words;             // of a K block, a multiple of kLanes
  int64_t w_words;
  // kc elements to words.
  void (*x_row)(const GemmKernel& kernel, const float* x, int64_t kc, float* words);
  void (*w_row)(const GemmKernel& kernel, const void* w, int64_t kc, float* words);
  DecodeFn decode;   // of w's type
  int offset;        // of its codes
  int row_step = 1;  // sums of a panel have room for a multiple of so many rows
  int64_t task_rows = kTaskRows;
  PackFn pack = pack_panel;
  ExecContext::Task task = gemm_task;
};

TT_INLINE int64_t split(int64_t n, int64_t parts, int64_t i) {
  return n * i / parts;
}

// Where panel p starts, in rows of the round. The last one ends behind the rows where they are no multiple of
// row_step.
int64_t panel_begin(const GemmJob& job, int64_t p) {
  const int step = job.kernel->row_step;
  return split(ceil_div(job.rows, step), job.n_panels, p) * step;
}
int64_t panel_rows(const GemmJob& job, int64_t p) {
  return imin(panel_begin(job, p + 1), job.rows) - panel_begin(job, p);
}

// ---- Packing. ----

// slot[word][r] = word `word` of row r. Writes up to kLanes words beyond the last row and whole vectors of
// words; the slot has room for both.
[[maybe_unused]] void pack_panel(const float* words, int64_t rows, int64_t n_words, float* slot) {
  constexpr int kRowVectors = kLanes == 4 ? 3 : 1;  // of the tallest panel of any precision that comes here
  for (int64_t k = 0; k < n_words; k += kLanes) {
    Vf tile[kRowVectors][kLanes];
    TT_UNROLL
    for (int v = 0; v < kRowVectors; ++v) {
      TT_UNROLL
      for (int i = 0; i < kLanes; ++i) {
        tile[v][i] = vload(words + imin(v * kLanes + i, rows - 1) * kRowWords + k);
      }
      vtranspose(tile[v]);
    }
    TT_UNROLL
    for (int i = 0; i < kLanes; ++i) {
      TT_UNROLL
      for (int v = 0; v < kRowVectors; ++v) {
        if (v * kLanes < rows) vstore(slot + (k + i) * rows + v * kLanes, tile[v][i]);
      }
    }
  }
}

void pack_task(void* arg, int64_t panel, int32_t thread) {
  const auto* job = static_cast<const GemmJob*>(arg);
  const GemmKernel& kernel = *job->kernel;
  const int64_t first = panel_begin(*job, panel);
  const int64_t rows = panel_rows(*job, panel);
  const MatmulArgs& a = *job->args;
  const int64_t depth = a.x.cols;
  float* words = job->unpacked + thread * kernel.max_rows * kRowWords;
  const bool normed = a.norm.kind != RowNorm::Kind::kNone;
  RowMoments moments[kMostPanelRows];
  for (int64_t r = 0; normed && r < rows; ++r) {
    moments[r] = row_moments(a.norm, f32_row(a.x, job->row0 + first + r), depth);
  }
  for (int64_t k = 0; k < depth; k += kKc) {
    const int64_t kc = imin(kKc, depth - k);
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = f32_row(a.x, job->row0 + first + r);
      alignas(64) float piece[kKc];
      if (normed) norm_piece(a.norm, moments[r], row, k, kc, piece);
      kernel.x_row(kernel, normed ? piece : row + k, kc, words + r * kRowWords);
    }
    kernel.pack(words, rows, kernel.x_words, job->packed + (k / kKc * job->n_panels + panel) * job->slot);
  }
}

// strip[word][i] = word of output n0 + i; outputs beyond the matrix become zeros. Rows are short pieces far
// apart, which hardware prefetchers do not follow: those of the strip that comes `next` bytes later are asked
// for.
void pack_strip(const GemmJob& job, int64_t n0, int64_t k0, int64_t kc, int64_t next, float* rows,
                float* strip) {
  const ConstMatrix& w = job.args->w;
  const GemmKernel& kernel = *job.kernel;
  for (int v = 0; v < kNv; ++v) {
    for (int i = 0; i < kLanes; ++i) {
      const int64_t n = n0 + v * kLanes + i;
      float* row = rows + i * kRowWords;
      if (n < w.rows) {
        const char* p = static_cast<const char*>(w.data) + n * w.stride + k0 / kKc * job.w_block_bytes;
        for (int64_t b = 0; b < job.w_block_bytes; b += 64) prefetch(p, next + b);
        kernel.w_row(kernel, p, kc, row);
      } else {
        memset(row, 0, kKc * sizeof(float));
      }
    }
    for (int64_t k = 0; k < kernel.w_words; k += kLanes) {  // words beyond kc are never read again
      Vf tile[kLanes];
      TT_UNROLL
      for (int i = 0; i < kLanes; ++i) tile[i] = vload(rows + i * kRowWords + k);
      vtranspose(tile);
      TT_UNROLL
      for (int i = 0; i < kLanes; ++i) vstore(strip + (k + i) * kNr + v * kLanes, tile[i]);
    }
  }
}

// ---- The op. ----

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
  float* rows = job->work + thread * job->work_words;
  float* strip = rows + kLanes * kRowWords;
  float* sums = strip + kKc * kNr;
  const int64_t base = panel_begin(*job, panel0);
  const int64_t height = panel_begin(*job, panel1) - base;

  for (int64_t k = 0; k < depth; k += kKc) {
    const int64_t kc = imin(kKc, depth - k);
    const bool last = k + kc == depth;
    for (int64_t s = strip0; s < strip1; ++s) {
      const int64_t next =
          s + 1 < strip1 ? kNr * a.w.stride : job->w_block_bytes - (s - strip0) * kNr * a.w.stride;
      pack_strip(*job, s * kNr, k, kc, next, rows, strip);
      for (int64_t p = panel0; p < panel1; ++p) {
        const int64_t first = panel_begin(*job, p);
        const int64_t n_rows = panel_rows(*job, p);
        const float* panel = job->packed + (k / kKc * job->n_panels + p) * job->slot;
        float* c = sums + ((s - strip0) * height + first - base) * kNr;
        job->kernel->multiply[(n_rows - 1) / job->kernel->row_step](panel, strip, kc, c, k == 0);
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
  int64_t panels = ceil_div(job.kernel->task_rows, job.kernel->max_rows);
  job.row_tasks = ceil_div(job.n_panels, panels);
  job.output_tasks = ceil_div(job.n_strips, strips);
  while (n_threads > 1 && job.row_tasks * job.output_tasks < 8 * n_threads) {
    if (strips > 1) {
      strips = ceil_div(strips, 2);
    } else if (panels > 4) {  // fewer rows would be dominated by the unpacking that every row task repeats
      panels = ceil_div(panels, 2);
    } else {
      break;
    }
    job.row_tasks = ceil_div(job.n_panels, panels);
    job.output_tasks = ceil_div(job.n_strips, strips);
  }
  const int64_t width = ceil_div(job.n_strips, job.output_tasks) * kNr;
  const int64_t height = ceil_div(job.n_panels, job.row_tasks) * job.kernel->max_rows;
  job.work_words = kLanes * kRowWords + kKc * kNr + width * height;
}

int64_t panel_slot(const GemmKernel& kernel) {
  return round_up(kernel.x_words * kernel.max_rows + kLanes, 16);
}

// Memory for packed x and, per thread, what job->work_words asks for. False where there is none.
bool take_scratch(const ExecContext& ctx, int64_t packed_words, GemmJob* job) {
  const int64_t unpacked_words = ctx.n_threads * job->kernel->max_rows * kRowWords;
  const int64_t words = packed_words + unpacked_words + ctx.n_threads * job->work_words;
  job->packed = static_cast<float*>(get_scratch(ctx, static_cast<size_t>(words) * sizeof(float)));
  if (job->packed == nullptr) return false;
  job->unpacked = job->packed + packed_words;
  job->work = job->unpacked + unpacked_words;
  return true;
}

Status gemm(const ExecContext& ctx, const MatmulArgs& a, const GemmKernel& kernel) {
  GemmJob job;
  job.args = &a;
  job.kernel = &kernel;
  job.w_block_bytes = row_bytes(a.w.dtype, kKc);
  job.n_strips = ceil_div(a.w.rows, kNr);
  const int64_t depth = a.x.cols;
  const int64_t k_blocks = ceil_div(depth, kKc);
  job.slot = panel_slot(kernel);
  const int64_t row_words = kernel.x_words * k_blocks;
  const int64_t rounds = ceil_div(a.x.rows, imax(kTaskRows / 4, kPackedBytes / 4 / row_words));
  const int64_t max_rows = ceil_div(a.x.rows, rounds);

  // Sized for the largest round; a smaller one never needs more.
  job.rows = max_rows;
  job.n_panels = ceil_div(max_rows, kernel.max_rows);
  plan_tasks(job, ctx.n_threads);
  const int64_t packed_words = k_blocks * job.n_panels * job.slot;
  if (!take_scratch(ctx, packed_words, &job)) return Status::kOutOfMemory;

  for (int64_t round = 0; round < rounds; ++round) {
    job.row0 = split(a.x.rows, rounds, round);
    job.rows = split(a.x.rows, rounds, round + 1) - job.row0;
    job.n_panels = ceil_div(job.rows, kernel.max_rows);
    run_tasks(ctx, job.n_panels, pack_task, &job);
    run_tasks(ctx, job.row_tasks * job.output_tasks, kernel.task, &job);
  }
  return Status::kOk;
}
