// Ops that work row by row: norms, add, gated activation, rope, patchify, dtype conversion.

// Elements of one task: some 10 us of work, well above the cost of handing it out. Less than this is done
// where the call is made.
constexpr int64_t kRowTaskElems = 32768;

template <typename Args>
struct RowsJob {
  const Args* args;
  int64_t n_rows;
  int64_t rows_per_task;
  float* scratch;
};

// Calls row_fn(job, t, thread) for every row t.
template <typename Args, void (*row_fn)(const RowsJob<Args>&, int64_t, int32_t)>
void rows_task(void* arg, int64_t task, int32_t thread) {
  const auto& job = *static_cast<const RowsJob<Args>*>(arg);
  const int64_t end = imin((task + 1) * job.rows_per_task, job.n_rows);
  for (int64_t t = task * job.rows_per_task; t < end; ++t) row_fn(job, t, thread);
}

// `cost`: of a row, in plain elements.
template <typename Args, void (*row_fn)(const RowsJob<Args>&, int64_t, int32_t)>
void for_rows(const ExecContext& ctx, const Args& args, int64_t n_rows, int64_t cost,
              float* scratch = nullptr) {
  if (n_rows == 0 || cost == 0) return;
  RowsJob<Args> job = {&args, n_rows, imax(kRowTaskElems / cost, 1), scratch};
  const int64_t n_tasks = ceil_div(n_rows, job.rows_per_task);
  if (n_tasks == 1) {
    rows_task<Args, row_fn>(&job, 0, 0);
  } else {
    run_tasks(ctx, n_tasks, rows_task<Args, row_fn>, &job);
  }
}

void rms_norm_row(const RowsJob<RmsNormArgs>& job, int64_t t, int32_t) {
  const RmsNormArgs& a = *job.args;
  const RowNorm norm = {RowNorm::Kind::kRms, a.weight, nullptr, a.eps};
  const float* x = f32_row(a.x, t);
  norm_piece(norm, rms_moments(x, a.x.cols, a.eps), x, 0, a.x.cols, f32_row(a.out, t));
}

Status rms_norm(const ExecContext& ctx, const RmsNormArgs& a) {
  if (const Status s = check_rms_norm_args(a); s != Status::kOk) return s;
  for_rows<RmsNormArgs, rms_norm_row>(ctx, a, a.x.rows, a.x.cols);
  return Status::kOk;
}

void layer_norm_row(const RowsJob<LayerNormArgs>& job, int64_t t, int32_t) {
  const LayerNormArgs& a = *job.args;
  const RowNorm norm = {RowNorm::Kind::kLayer, a.weight, a.bias, a.eps};
  const float* x = f32_row(a.x, t);
  norm_piece(norm, layer_moments(x, a.x.cols, a.eps), x, 0, a.x.cols, f32_row(a.out, t));
}

Status layer_norm(const ExecContext& ctx, const LayerNormArgs& a) {
  if (const Status s = check_layer_norm_args(a); s != Status::kOk) return s;
  for_rows<LayerNormArgs, layer_norm_row>(ctx, a, a.x.rows, a.x.cols);
  return Status::kOk;
}

void add_row(const RowsJob<AddArgs>& job, int64_t t, int32_t) {
  const AddArgs& a = *job.args;
  const float* x = f32_row(a.x, t);
  const float* y = f32_row(a.y, t % a.y.rows);
  float* out = f32_row(a.out, t);
  int64_t i = 0;
  for (; i + kLanes <= a.out.cols; i += kLanes) vstore(out + i, vadd(vload(x + i), vload(y + i)));
  const int64_t rest = a.out.cols - i;
  if (rest > 0) vstore_n(out + i, vadd(vload_n(x + i, rest), vload_n(y + i, rest)), rest);
}

Status add(const ExecContext& ctx, const AddArgs& a) {
  if (const Status s = check_add_args(a); s != Status::kOk) return s;
  for_rows<AddArgs, add_row>(ctx, a, a.out.rows, a.out.cols);
  return Status::kOk;
}

template <Activation act>
void gated_act_row(const RowsJob<GatedActArgs>& job, int64_t t, int32_t) {
  const GatedActArgs& a = *job.args;
  const float* gate = f32_row(a.gate, t);
  const float* up = f32_row(a.up, t);
  float* out = f32_row(a.out, t);
  int64_t i = 0;
  for (; i + kLanes <= a.out.cols; i += kLanes) {
    vstore(out + i, vmul(vactivate(vload(gate + i), act), vload(up + i)));
  }
  const int64_t rest = a.out.cols - i;
  if (rest > 0) vstore_n(out + i, vmul(vactivate(vload_n(gate + i, rest), act), vload_n(up + i, rest)), rest);
}

template <Activation act>
void gate_rows(const ExecContext& ctx, const GatedActArgs& a) {
  // An activation costs about as much as eight plain elements.
  for_rows<GatedActArgs, gated_act_row<act>>(ctx, a, a.out.rows,
                                             a.out.cols * (act == Activation::kNone ? 1 : 8));
}

Status gated_act(const ExecContext& ctx, const GatedActArgs& a) {
  if (const Status s = check_gated_act_args(a); s != Status::kOk) return s;
  switch (a.act) {
    case Activation::kNone:
      gate_rows<Activation::kNone>(ctx, a);
      break;
    case Activation::kGeluTanh:
      gate_rows<Activation::kGeluTanh>(ctx, a);
      break;
    case Activation::kGeluErf:
      gate_rows<Activation::kGeluErf>(ctx, a);
      break;
    case Activation::kQuickGelu:
      gate_rows<Activation::kQuickGelu>(ctx, a);
      break;
    case Activation::kSilu:
      gate_rows<Activation::kSilu>(ctx, a);
      break;
  }
  return Status::kOk;
}

void rope_row(const RowsJob<RopeArgs>& job, int64_t t, int32_t thread) {
  const RopeArgs& a = *job.args;
  const int64_t half = a.cos.cols;
  const Angles angles = row_angles(f32_row(a.cos, t), f32_row(a.sin, t), half, a.pairs,
                                   job.scratch + thread * angle_floats(half));
  float* x = f32_row(a.x, t);
  for (const float* end = x + a.x.cols; x < end; x += a.head_dim) rotate_head(angles, x, x);
}

Status rope(const ExecContext& ctx, const RopeArgs& a) {
  if (const Status s = check_rope_args(a); s != Status::kOk) return s;
  if (a.x.rows == 0 || a.cos.cols == 0) return Status::kOk;
  const size_t floats = static_cast<size_t>(angle_floats(a.cos.cols)) * static_cast<size_t>(ctx.n_threads);
  auto* scratch = static_cast<float*>(get_scratch(ctx, floats * sizeof(float)));
  if (scratch == nullptr) return Status::kOutOfMemory;
  for_rows<RopeArgs, rope_row>(ctx, a, a.x.rows, a.x.cols, scratch);
  return Status::kOk;
}

void patchify_row(const RowsJob<PatchifyArgs>& job, int64_t p, int32_t) {
  const PatchifyArgs& a = *job.args;
  const int64_t per_row = a.width / a.patch;
  const int64_t top = p / per_row * a.patch;
  const int64_t left = p % per_row * a.patch;
  float* out = f32_row(a.out, p);
  for (int64_t c = 0; c < a.channels; ++c) {
    for (int64_t y = 0; y < a.patch; ++y, out += a.patch) {
      const float* pixels = a.pixels + (c * a.height + top + y) * a.width + left;
      int64_t x = 0;
      for (; x + kLanes <= a.patch; x += kLanes) vstore(out + x, vload(pixels + x));
      if (x < a.patch) vstore_n(out + x, vload_n(pixels + x, a.patch - x), a.patch - x);
    }
  }
}

Status patchify(const ExecContext& ctx, const PatchifyArgs& a) {
  if (const Status s = check_patchify_args(a); s != Status::kOk) return s;
  for_rows<PatchifyArgs, patchify_row>(ctx, a, a.out.rows, a.out.cols);
  return Status::kOk;
}

// As ggml: d = max|x| / 127, q = round(x / d). A block with an infinity, a NaN or a d beyond f16 becomes NaN.
TT_INLINE void quantize_q8_0(const float* x, BlockQ8_0* block) {
  Vf top = vzero();
  Vf bad = vzero();  // NaN if some x is not finite
  TT_UNROLL
  for (int i = 0; i < 32; i += kLanes) {
    const Vf v = vload(x + i);
    top = vmax(top, vabs(v));
    bad = vfma(v, vzero(), bad);
  }
  const float d = vreduce_max(top) / 127.0f;
  uint16_t bits;
  vstore_f16_n(&bits, vset1(d), 1);
  constexpr uint16_t kInfinity = 0x7c00;
  if (vreduce_add(bad) != 0.0f || bits >= kInfinity) {
    block->d = 0x7e00;
    memset(block->qs, 1, sizeof(block->qs));
    return;
  }
  block->d = bits;
  const Vf inverse = vset1(bits == 0 ? 0.0f : 1.0f / d);
  TT_UNROLL
  for (int i = 0; i < 32; i += kLanes) vstore_i8(block->qs + i, vmul(vload(x + i), inverse));
}

void convert_row(Dtype dtype, const float* x, int64_t n, void* out) {
  const int64_t whole = n / kLanes * kLanes;
  auto* half = static_cast<uint16_t*>(out);
  switch (dtype) {
    case Dtype::kF16:
      for (int64_t i = 0; i < whole; i += kLanes) vstore_f16(half + i, vload(x + i));
      if (whole < n) vstore_f16_n(half + whole, vload_n(x + whole, n - whole), n - whole);
      return;
    case Dtype::kBF16:
      for (int64_t i = 0; i < whole; i += kLanes) vstore_bf16(half + i, vload(x + i));
      if (whole < n) vstore_bf16_n(half + whole, vload_n(x + whole, n - whole), n - whole);
      return;
    case Dtype::kQ8_0:
      for (int64_t i = 0; i < n / 32; ++i) quantize_q8_0(x + 32 * i, static_cast<BlockQ8_0*>(out) + i);
      return;
    default:  // F32, the only other dtype that the check admits
      memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
  }
}

TT_INLINE bool rotates(const Rotation& r) {
  return r.cos.data != nullptr && r.cos.cols > 0;
}

// Of a thread: a row of rotated heads and its angles.
TT_INLINE int64_t rotated_row_floats(const ConvertRowsArgs& a) {
  return round_up(a.x.cols, 16) + angle_floats(a.rotation.cos.cols);
}

template <bool kRotates>
void convert_rows_row(const RowsJob<ConvertRowsArgs>& job, int64_t t, int32_t thread) {
  const ConvertRowsArgs& a = *job.args;
  const float* x = f32_row(a.x, t);
  void* out = static_cast<char*>(a.out.data) + (a.at == nullptr ? t : a.at[t]) * a.out.stride;
  if (!kRotates) return convert_row(a.out.dtype, x, a.x.cols, out);
  const Rotation& r = a.rotation;
  float* rotated = job.scratch + thread * rotated_row_floats(a);
  const Angles angles =
      row_angles(f32_row(r.cos, t), f32_row(r.sin, t), r.cos.cols, r.pairs, rotated + round_up(a.x.cols, 16));
  memcpy(rotated, x, static_cast<size_t>(a.x.cols) * sizeof(float));
  for (int64_t head = 0; head < a.x.cols; head += a.head_dim) {
    rotate_head(angles, rotated + head, rotated + head);
  }
  convert_row(a.out.dtype, rotated, a.x.cols, out);
}

Status convert_rows(const ExecContext& ctx, const ConvertRowsArgs& a) {
  if (const Status s = check_convert_rows_args(a); s != Status::kOk) return s;
  if (!rotates(a.rotation)) {
    for_rows<ConvertRowsArgs, convert_rows_row<false>>(ctx, a, a.x.rows, a.x.cols);
    return Status::kOk;
  }
  if (a.x.rows == 0 || a.x.cols == 0) return Status::kOk;
  const int64_t floats = rotated_row_floats(a) * ctx.n_threads;
  auto* scratch = static_cast<float*>(get_scratch(ctx, static_cast<size_t>(floats) * sizeof(float)));
  if (scratch == nullptr) return Status::kOutOfMemory;
  for_rows<ConvertRowsArgs, convert_rows_row<true>>(ctx, a, a.x.rows, 2 * a.x.cols, scratch);
  return Status::kOk;
}
