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

// Vectors of a row by the pair, so that sums have two chains; the last vector may be partial.
struct Sums {
  Vf a;
  Vf b;
};
TT_INLINE float total(const Sums& s) {
  return vreduce_add(vadd(s.a, s.b));
}

void rms_norm_row(const RowsJob<RmsNormArgs>& job, int64_t t, int32_t) {
  const RmsNormArgs& a = *job.args;
  const float* x = f32_row(a.x, t);
  float* out = f32_row(a.out, t);
  const int64_t n = a.x.cols;
  Sums squares = {vzero(), vzero()};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    squares.a = vfma(vload(x + i), vload(x + i), squares.a);
    squares.b = vfma(vload(x + i + kLanes), vload(x + i + kLanes), squares.b);
  }
  for (; i < n; i += kLanes) {
    const Vf v = vload_n(x + i, imin(n - i, kLanes));
    squares.a = vfma(v, v, squares.a);
  }
  const Vf scale = vset1(1.0f / sqrtf(total(squares) / static_cast<float>(n) + a.eps));
  for (i = 0; i + kLanes <= n; i += kLanes) {
    const Vf v = vmul(vload(x + i), scale);
    vstore(out + i, a.weight == nullptr ? v : vmul(v, vload(a.weight + i)));
  }
  const int64_t rest = n - i;
  if (rest == 0) return;
  const Vf v = vmul(vload_n(x + i, rest), scale);
  vstore_n(out + i, a.weight == nullptr ? v : vmul(v, vload_n(a.weight + i, rest)), rest);
}

Status rms_norm(const ExecContext& ctx, const RmsNormArgs& a) {
  if (const Status s = check_rms_norm_args(a); s != Status::kOk) return s;
  for_rows<RmsNormArgs, rms_norm_row>(ctx, a, a.x.rows, a.x.cols);
  return Status::kOk;
}

// n elements from i on of weight * v + bias.
TT_INLINE Vf scale_and_shift(const LayerNormArgs& a, Vf v, int64_t i, int64_t n) {
  const bool whole = n == kLanes;
  const Vf bias = a.bias == nullptr ? vzero() : whole ? vload(a.bias + i) : vload_n(a.bias + i, n);
  if (a.weight == nullptr) return vadd(v, bias);
  return vfma(v, whole ? vload(a.weight + i) : vload_n(a.weight + i, n), bias);
}

void layer_norm_row(const RowsJob<LayerNormArgs>& job, int64_t t, int32_t) {
  const LayerNormArgs& a = *job.args;
  const float* x = f32_row(a.x, t);
  float* out = f32_row(a.out, t);
  const int64_t n = a.x.cols;
  const auto count = static_cast<float>(n);
  Sums sum = {vzero(), vzero()};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    sum.a = vadd(sum.a, vload(x + i));
    sum.b = vadd(sum.b, vload(x + i + kLanes));
  }
  for (; i < n; i += kLanes) sum.a = vadd(sum.a, vload_n(x + i, imin(n - i, kLanes)));
  // The rounding error of this mean is measured by the second pass and taken out of mean and variance.
  const Vf mean = vset1(total(sum) / count);
  Sums rest_sum = {vzero(), vzero()};  // a: differences, b: their squares
  for (i = 0; i + kLanes <= n; i += kLanes) {
    const Vf d = vsub(vload(x + i), mean);
    rest_sum.a = vadd(rest_sum.a, d);
    rest_sum.b = vfma(d, d, rest_sum.b);
  }
  const int64_t rest = n - i;
  const Vf tail = rest == 0 ? vzero() : vselect(vfirst(rest), vsub(vload_n(x + i, rest), mean), vzero());
  rest_sum.a = vadd(rest_sum.a, tail);
  rest_sum.b = vfma(tail, tail, rest_sum.b);
  const float correction = vreduce_add(rest_sum.a) / count;
  const float variance = vreduce_add(rest_sum.b) / count - correction * correction;
  const Vf scale = vset1(1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + a.eps));
  const Vf shift = vset1(correction);
  for (i = 0; i + kLanes <= n; i += kLanes) {
    const Vf v = vmul(vsub(vsub(vload(x + i), mean), shift), scale);
    vstore(out + i, scale_and_shift(a, v, i, kLanes));
  }
  if (rest == 0) return;
  vstore_n(out + i, scale_and_shift(a, vmul(vsub(tail, shift), scale), i, rest), rest);
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

TT_INLINE void rotate_halves(float* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t k = 0; k < half; k += kLanes) {
    const int64_t n = imin(half - k, kLanes);
    const bool whole = n == kLanes;
    const Vf c = whole ? vload(cos + k) : vload_n(cos + k, n);
    const Vf s = whole ? vload(sin + k) : vload_n(sin + k, n);
    const Vf u = whole ? vload(x + k) : vload_n(x + k, n);
    const Vf v = whole ? vload(x + half + k) : vload_n(x + half + k, n);
    const Vf new_u = vfms(u, c, vmul(v, s));
    const Vf new_v = vfma(u, s, vmul(v, c));
    if (whole) {
      vstore(x + k, new_u);
      vstore(x + half + k, new_v);
    } else {
      vstore_n(x + k, new_u, n);
      vstore_n(x + half + k, new_v, n);
    }
  }
}

// cos and sin hold every angle twice, the first sin of a pair negated.
TT_INLINE void rotate_adjacent(float* x, const float* cos, const float* sin, int64_t rotated) {
  for (int64_t k = 0; k < rotated; k += kLanes) {
    const int64_t n = imin(rotated - k, kLanes);
    const Vf v = n == kLanes ? vload(x + k) : vload_n(x + k, n);
    const Vf turned = vfma(v, vload(cos + k), vmul(vswap_pairs(v), vload(sin + k)));
    if (n == kLanes) {
      vstore(x + k, turned);
    } else {
      vstore_n(x + k, turned, n);
    }
  }
}

TT_INLINE int64_t rope_table_floats(const RopeArgs& a) {
  return 2 * round_up(2 * a.cos.cols, 16);
}

void rope_row(const RowsJob<RopeArgs>& job, int64_t t, int32_t thread) {
  const RopeArgs& a = *job.args;
  const int64_t half = a.cos.cols;
  const float* cos = f32_row(a.cos, t);
  const float* sin = f32_row(a.sin, t);
  float* x = f32_row(a.x, t);
  float* const end = x + a.x.cols;
  if (a.pairs == RopePairs::kHalves) {
    for (; x < end; x += a.head_dim) rotate_halves(x, cos, sin, half);
    return;
  }
  float* twice_cos = job.scratch + thread * rope_table_floats(a);
  float* twice_sin = twice_cos + rope_table_floats(a) / 2;
  for (int64_t k = 0; k < half; ++k) {
    twice_cos[2 * k] = twice_cos[2 * k + 1] = cos[k];
    twice_sin[2 * k] = -sin[k];
    twice_sin[2 * k + 1] = sin[k];
  }
  for (; x < end; x += a.head_dim) rotate_adjacent(x, twice_cos, twice_sin, 2 * half);
}

Status rope(const ExecContext& ctx, const RopeArgs& a) {
  if (const Status s = check_rope_args(a); s != Status::kOk) return s;
  if (a.x.rows == 0 || a.cos.cols == 0) return Status::kOk;
  float* scratch = nullptr;
  if (a.pairs == RopePairs::kAdjacent) {
    const size_t floats = static_cast<size_t>(rope_table_floats(a)) * static_cast<size_t>(ctx.n_threads);
    scratch = static_cast<float*>(get_scratch(ctx, floats * sizeof(float)));
    if (scratch == nullptr) return Status::kOutOfMemory;
  }
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

void convert_row(const RowsJob<ConvertRowsArgs>& job, int64_t t, int32_t) {
  const ConvertRowsArgs& a = *job.args;
  const float* x = f32_row(a.x, t);
  const int64_t n = a.x.cols;
  const int64_t whole = n / kLanes * kLanes;
  void* out = static_cast<char*>(a.out.data) + (a.at == nullptr ? t : a.at[t]) * a.out.stride;
  auto* half = static_cast<uint16_t*>(out);
  switch (a.out.dtype) {
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

Status convert_rows(const ExecContext& ctx, const ConvertRowsArgs& a) {
  if (const Status s = check_convert_rows_args(a); s != Status::kOk) return s;
  for_rows<ConvertRowsArgs, convert_row>(ctx, a, a.x.rows, a.x.cols);
  return Status::kOk;
}
