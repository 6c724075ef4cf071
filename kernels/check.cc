#include "kernels/check.h"

#include <cmath>
#include <limits>

namespace trimtok {
namespace {

constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();

// Bytes that one addressable unit of a row must be aligned to: blocks are packed, so only the plain formats
// ask.
int64_t alignment_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
    case Dtype::kI32:
      return 4;
    case Dtype::kF16:
    case Dtype::kBF16:
      return 2;
    default:
      return 1;
  }
}

// Sane shape, rows that do not overlap, aligned and present data where there is any, and no overflow when
// a kernel computes rows * stride.
bool valid(const ConstMatrix& m) {
  if (m.rows < 0 || m.cols < 0) return false;
  const int64_t bytes = row_bytes(m.dtype, m.cols);
  if (bytes < 0) return false;
  if (m.rows == 0 || m.cols == 0) return true;
  const int64_t alignment = alignment_of(m.dtype);
  return m.data != nullptr && m.stride >= bytes && m.rows <= kMaxInt64 / m.stride &&
         m.stride % alignment == 0 &&
         reinterpret_cast<uintptr_t>(m.data) % static_cast<size_t>(alignment) == 0;
}

bool valid_f32(const ConstMatrix& m) {
  return m.dtype == Dtype::kF32 && valid(m);
}

bool valid_weight(const ConstMatrix& m) {
  const DtypeInfo* info = dtype_info(m.dtype);
  return info != nullptr && info->use == DtypeUse::kWeight && valid(m);
}

// Dtypes that activations and the key/value cache can be stored in.
bool valid_stored(const ConstMatrix& m) {
  const bool storable =
      m.dtype == Dtype::kF32 || m.dtype == Dtype::kF16 || m.dtype == Dtype::kBF16 || m.dtype == Dtype::kQ8_0;
  return storable && valid(m);
}

bool same_shape(const ConstMatrix& a, const ConstMatrix& b) {
  return a.rows == b.rows && a.cols == b.cols;
}

bool valid_vector(const float* v) {
  return reinterpret_cast<uintptr_t>(v) % alignof(float) == 0;
}

bool valid_eps(float eps) {
  return std::isfinite(eps) && eps >= 0.0f;
}

bool valid_activation(Activation act) {
  return act >= Activation::kNone && act <= Activation::kSilu;
}

bool valid_rotation(const Rotation& r, int64_t rows, int32_t head_dim) {
  if (r.cos.data == nullptr && r.sin.data == nullptr) return true;
  if (!valid_f32(r.cos) || !valid_f32(r.sin) || head_dim <= 0) return false;
  if (r.cos.rows != rows || !same_shape(r.cos, r.sin)) return false;
  const bool known_pairs = r.pairs == RopePairs::kAdjacent || r.pairs == RopePairs::kHalves;
  return known_pairs && r.cos.cols <= head_dim / 2;
}

bool valid_norm(const RowNorm& n) {
  if (n.kind < RowNorm::Kind::kNone || n.kind > RowNorm::Kind::kLayer) return false;
  if (!valid_vector(n.weight) || !valid_vector(n.bias)) return false;
  return valid_eps(n.eps) && (n.kind == RowNorm::Kind::kLayer || n.bias == nullptr);
}

Status status(bool ok) {
  return ok ? Status::kOk : Status::kBadArgument;
}

}  // namespace

Status check_gather_rows_shapes(const GatherRowsArgs& a) {
  if (!valid_f32(a.out) || !valid_weight(a.table) || a.out.cols != a.table.cols || !std::isfinite(a.scale)) {
    return Status::kBadArgument;
  }
  return status(a.out.rows == 0 || a.ids != nullptr);
}

Status check_convert_rows_shapes(const ConvertRowsArgs& a) {
  if (!valid_stored(a.out) || !valid_f32(a.x) || a.out.cols != a.x.cols) return Status::kBadArgument;
  if (!valid_rotation(a.rotation, a.x.rows, a.head_dim)) return Status::kBadArgument;
  if (a.rotation.cos.data != nullptr && a.x.cols % a.head_dim != 0) return Status::kBadArgument;
  return status(a.at != nullptr || a.out.rows == a.x.rows);
}

Status check_rms_norm_shapes(const RmsNormArgs& a) {
  return status(valid_f32(a.out) && valid_f32(a.x) && same_shape(a.out, a.x) && valid_vector(a.weight) &&
                valid_eps(a.eps));
}

Status check_layer_norm_shapes(const LayerNormArgs& a) {
  return status(valid_f32(a.out) && valid_f32(a.x) && same_shape(a.out, a.x) && valid_vector(a.weight) &&
                valid_vector(a.bias) && valid_eps(a.eps));
}

Status check_add_shapes(const AddArgs& a) {
  if (!valid_f32(a.out) || !valid_f32(a.x) || !valid_f32(a.y)) return Status::kBadArgument;
  if (!same_shape(a.out, a.x) || a.y.cols != a.x.cols) return Status::kBadArgument;
  return status(a.out.rows == 0 || (a.y.rows > 0 && a.out.rows % a.y.rows == 0));
}

Status check_gated_act_shapes(const GatedActArgs& a) {
  return status(valid_f32(a.out) && valid_f32(a.gate) && valid_f32(a.up) && same_shape(a.out, a.gate) &&
                same_shape(a.out, a.up) && valid_activation(a.act));
}

Status check_rope_shapes(const RopeArgs& a) {
  if (!valid_f32(a.x) || !valid_f32(a.cos) || !valid_f32(a.sin)) return Status::kBadArgument;
  if (a.head_dim <= 0 || a.x.cols % a.head_dim != 0) return Status::kBadArgument;
  if (a.cos.rows != a.x.rows || !same_shape(a.cos, a.sin)) return Status::kBadArgument;
  const bool known_pairs = a.pairs == RopePairs::kAdjacent || a.pairs == RopePairs::kHalves;
  return status(known_pairs && a.cos.cols <= a.head_dim / 2);
}

Status check_patchify_shapes(const PatchifyArgs& a) {
  if (!valid_f32(a.out) || a.channels < 0 || a.height < 0 || a.width < 0 || a.patch <= 0) {
    return Status::kBadArgument;
  }
  const int64_t patches = static_cast<int64_t>(a.height / a.patch) * (a.width / a.patch);
  int64_t elements = static_cast<int64_t>(a.patch) * a.patch;
  if (__builtin_mul_overflow(elements, static_cast<int64_t>(a.channels), &elements))
    return Status::kBadArgument;
  if (a.out.rows != patches || a.out.cols != elements) return Status::kBadArgument;
  const bool empty = patches == 0 || elements == 0;
  return status(empty || (a.pixels != nullptr && valid_vector(a.pixels)));
}

Status check_matmul_shapes(const MatmulArgs& a) {
  if (!valid_f32(a.out) || !valid_f32(a.x) || !valid_weight(a.w)) return Status::kBadArgument;
  if (a.out.rows != a.x.rows || a.out.cols != a.w.rows || a.x.cols != a.w.cols) return Status::kBadArgument;
  if (!valid_vector(a.bias) || !valid_vector(a.scale) || !valid_activation(a.act))
    return Status::kBadArgument;
  if (!valid_norm(a.norm)) return Status::kBadArgument;
  if (a.times.data != nullptr && !(valid_f32(a.times) && same_shape(a.times, a.out))) {
    return Status::kBadArgument;
  }
  if (a.compute < Compute::kF32 || a.compute > Compute::kInt8) return Status::kBadArgument;
  if (a.residual.data == nullptr) return Status::kOk;
  return status(valid_f32(a.residual) && same_shape(a.residual, a.out));
}

Status check_attention_shapes(const AttentionArgs& a) {
  if (!valid_f32(a.out) || !valid_f32(a.q) || !valid_stored(a.k) || !valid_stored(a.v)) {
    return Status::kBadArgument;
  }
  if (a.n_heads <= 0 || a.n_kv_heads <= 0 || a.head_dim <= 0 || a.n_heads % a.n_kv_heads != 0) {
    return Status::kBadArgument;
  }
  const int64_t head_dim = a.head_dim;
  if (!same_shape(a.out, a.q) || a.q.cols != a.n_heads * head_dim) return Status::kBadArgument;
  if (!same_shape(a.k, a.v) || a.k.cols != a.n_kv_heads * head_dim) return Status::kBadArgument;
  // A head's slice of a quantised row must start on a block.
  const bool quantised = a.k.dtype == Dtype::kQ8_0 || a.v.dtype == Dtype::kQ8_0;
  if (quantised && head_dim % 32 != 0) return Status::kBadArgument;
  if (!std::isfinite(a.scale) || !std::isfinite(a.softcap) || a.softcap < 0.0f) return Status::kBadArgument;
  if (!valid_rotation(a.rotation, a.q.rows, a.head_dim)) return Status::kBadArgument;
  return status(a.q.rows == 0 || (a.begin != nullptr && a.end != nullptr));
}

Status check_unit_rows_shapes(const UnitRowsArgs& a) {
  const bool readable = (a.x.dtype == Dtype::kF32 || a.x.dtype == Dtype::kF16) && valid(a.x);
  return status(valid_f32(a.out) && readable && same_shape(a.out, a.x) && valid_vector(a.norms));
}

Status check_sum_rows_shapes(const SumRowsArgs& a) {
  if (!valid_f32(a.out) || !valid_f32(a.x) || a.out.cols != a.x.cols || !valid_vector(a.weight)) {
    return Status::kBadArgument;
  }
  return status(a.out.rows == 0 || a.begin != nullptr);
}

Status check_gram_shapes(const GramArgs& a) {
  if (!valid_f32(a.out) || !valid_f32(a.x)) return Status::kBadArgument;
  if (a.out.rows != a.x.rows || a.out.cols != a.x.rows) return Status::kBadArgument;
  return status(a.first >= 0 && a.first <= a.last && a.last <= a.x.rows);
}

namespace {

bool valid_problem(const GreedyProblem& p, const GreedyPickArgs& a) {
  if (!valid_f32(p.gram) || !valid_f32(p.state) || !valid_vector(p.total)) return false;
  const int64_t n = p.gram.cols;
  if (p.count < 0 || p.count > n || p.count > a.out.cols || p.state.cols != n) return false;
  if (p.first >= n || std::isnan(p.stop_at)) return false;
  if (a.rule == GreedyRule::kDeterminant) {
    if (p.state.rows < 1 + int64_t{p.count}) return false;
    if (!valid_vector(p.scale) || reinterpret_cast<uintptr_t>(p.gain) % alignof(double) != 0) return false;
    if (p.count > 0 && (p.scale == nullptr || p.gain == nullptr)) return false;
  } else {
    if (p.state.rows != (a.rule == GreedyRule::kFacility ? 3 : 1)) return false;
    if (p.first < 0 && p.total == nullptr && p.count > 0) return false;
  }
  return p.slot != nullptr || p.gram.rows == n;
}

}  // namespace

Status check_greedy_pick_shapes(const GreedyPickArgs& a) {
  if (a.out.dtype != Dtype::kI32 || !valid(a.out)) return Status::kBadArgument;
  if (a.rule < GreedyRule::kMaxSum || a.rule > GreedyRule::kDeterminant) return Status::kBadArgument;
  if (a.scores.data != nullptr && !(valid_f32(a.scores) && same_shape(a.scores, a.out))) {
    return Status::kBadArgument;
  }
  if (a.out.rows == 0) return Status::kOk;
  if (a.problems == nullptr || a.done == nullptr) return Status::kBadArgument;
  for (int64_t b = 0; b < a.out.rows; ++b) {
    if (!valid_problem(a.problems[b], a)) return Status::kBadArgument;
  }
  return Status::kOk;
}

namespace {

// What the arrays hold, which only those may ask who can read them.
template <typename Args>
bool valid_contents(const Args&) {
  return true;
}

bool valid_contents(const GatherRowsArgs& a) {
  for (int64_t t = 0; t < a.out.rows; ++t) {
    if (a.ids[t] < 0 || a.ids[t] >= a.table.rows) return false;
  }
  return true;
}

bool valid_contents(const ConvertRowsArgs& a) {
  for (int64_t t = 0; a.at != nullptr && t < a.x.rows; ++t) {
    if (a.at[t] < 0 || a.at[t] >= a.out.rows) return false;
  }
  return true;
}

bool valid_contents(const AttentionArgs& a) {
  for (int64_t t = 0; t < a.q.rows; ++t) {
    if (a.begin[t] < 0 || a.begin[t] > a.end[t] || a.end[t] > a.k.rows) return false;
  }
  return true;
}

bool valid_contents(const SumRowsArgs& a) {
  if (a.out.rows == 0) return true;
  if (a.begin[0] < 0 || a.begin[a.out.rows] > a.x.rows) return false;
  for (int64_t b = 0; b < a.out.rows; ++b) {
    if (a.begin[b] > a.begin[b + 1]) return false;
  }
  return true;
}

bool valid_contents(const GreedyPickArgs& a) {
  for (int64_t b = 0; b < a.out.rows; ++b) {
    const GreedyProblem& p = a.problems[b];
    if (a.done[b] < 0 || a.done[b] > p.count) return false;
    for (int64_t i = 0; p.slot != nullptr && i < p.gram.cols; ++i) {
      if (p.slot[i] < -1 || p.slot[i] >= p.gram.rows) return false;
    }
  }
  return true;
}

}  // namespace

#define TT_OP(name, Args)                                              \
  Status check_##name##_args(const Args& a) {                          \
    const Status shapes = check_##name##_shapes(a);                    \
    return shapes != Status::kOk ? shapes : status(valid_contents(a)); \
  }
#include "trimtok/ops.def"
#undef TT_OP

void run_tasks(const ExecContext& ctx, int64_t n_tasks, ExecContext::Task task, void* arg) {
  if (ctx.parallel != nullptr) {
    ctx.parallel(ctx.pool, n_tasks, task, arg);
    return;
  }
  for (int64_t i = 0; i < n_tasks; ++i) task(arg, i, 0);
}

void* get_scratch(const ExecContext& ctx, size_t bytes) {
  return ctx.scratch == nullptr ? nullptr : ctx.scratch(ctx.scratch_owner, bytes);
}

}  // namespace trimtok
