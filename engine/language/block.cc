#include "engine/language/block.h"

#include <algorithm>
#include <limits>

namespace trimtok {
namespace {

constexpr int64_t kKeysShown = 256;  // a multiple of it

RowNorm rms(const float* weight, float eps) {
  return {.kind = RowNorm::Kind::kRms, .weight = weight, .eps = eps};
}

// p(norm(x)).
Matrix projected(Backend& backend, const ConstMatrix& x, const RowNorm& norm, const Projection& p,
                 const char* where) {
  const Matrix out = backend.arena().matrix(x.rows, p.weight.rows);
  backend.matmul({.out = out, .x = x, .w = p.weight, .bias = p.bias, .residual = {}, .norm = norm}, where);
  return out;
}

// Every head on its own, in place. x is packed, so its heads are the rows of another view.
void norm_heads(Backend& backend, const Matrix& x, const float* weight, const AttentionShape& shape,
                const char* where) {
  if (weight == nullptr) return;
  const Matrix heads = {x.data, x.dtype, x.rows * (x.cols / shape.head_dim), shape.head_dim,
                        row_bytes(x.dtype, shape.head_dim)};
  backend.rms_norm({.out = heads, .x = heads, .weight = weight, .eps = shape.norm_eps}, where);
}

// h += x . w^T + bias, or h += norm(x . w^T + bias).
void add_projected(Backend& backend, const Matrix& h, const ConstMatrix& x, const Projection& p,
                   const float* post_norm, float norm_eps, const char* where) {
  if (post_norm == nullptr) {
    backend.matmul({.out = h, .x = x, .w = p.weight, .bias = p.bias, .residual = h}, where);
    return;
  }
  const Matrix out = projected(backend, x, {}, p, where);
  backend.rms_norm({.out = out, .x = out, .weight = post_norm, .eps = norm_eps}, where);
  backend.add({.out = h, .x = h, .y = out}, where);
}

// Rows of the cache that attention is shown, of which it may see n. More than those on a device: arguments
// that change with every token would keep its steps from being recorded.
int64_t keys_shown(const Backend& backend, const KvCache& cache, int64_t n) {
  if (backend.on_host()) return n;
  return std::min((n + kKeysShown - 1) / kKeysShown * kKeysShown, cache.capacity());
}

}  // namespace

AttentionShape attention_shape(const DecoderParams& params, RopePairs pairs) {
  return {.n_heads = params.n_heads,
          .n_kv_heads = params.n_kv_heads,
          .head_dim = params.head_dim,
          .scale = params.attention_scale,
          .norm_eps = params.norm_eps,
          .pairs = pairs};
}

std::string block_name(int32_t layer, const char* suffix) {
  return format("blk.%d.%s", layer, suffix);
}

Projection bind_projection(WeightBinder& binder, const std::string& name, int64_t rows, int64_t cols,
                           Bias bias) {
  const std::string bias_name = name + ".bias";
  return {.weight = binder.matrix(name + ".weight", rows, cols),
          .bias = bias == Bias::kRequired ? binder.vector(bias_name, rows)
                                          : binder.optional_vector(bias_name, rows)};
}

void bind_qkv(WeightBinder& binder, int32_t layer, const DecoderParams& params, Bias bias,
              AttentionWeights& weights) {
  const int64_t n_q = int64_t{params.n_heads} * params.head_dim;
  const int64_t n_kv = int64_t{params.n_kv_heads} * params.head_dim;
  const std::string fused_name = block_name(layer, "attn_qkv");
  if (!binder.has(fused_name + ".weight")) {
    weights.q = bind_projection(binder, block_name(layer, "attn_q"), n_q, params.n_embd, bias);
    weights.k = bind_projection(binder, block_name(layer, "attn_k"), n_kv, params.n_embd, bias);
    weights.v = bind_projection(binder, block_name(layer, "attn_v"), n_kv, params.n_embd, bias);
    return;
  }
  const Projection fused = bind_projection(binder, fused_name, n_q + 2 * n_kv, params.n_embd, bias);
  const auto part = [&](int64_t first, int64_t n) {
    return Projection{.weight = row_range(fused.weight, first, n),
                      .bias = fused.bias == nullptr ? nullptr : fused.bias + first};
  };
  weights.q = part(0, n_q);
  weights.k = part(n_q, n_kv);
  weights.v = part(n_q + n_kv, n_kv);
}

Projection bind_head(WeightBinder& binder, const ConstMatrix& token_embd) {
  if (binder.has("output.weight")) {
    return bind_projection(binder, "output", token_embd.rows, token_embd.cols, Bias::kOptional);
  }
  return {.weight = token_embd, .bias = binder.optional_vector("output.bias", token_embd.rows)};
}

double matmul_flops(const AttentionWeights& attention, const FfnWeights& ffn) {
  double n = 0;
  for (const ConstMatrix* m : {&attention.q.weight, &attention.k.weight, &attention.v.weight,
                               &attention.output.weight, &ffn.gate, &ffn.up, &ffn.down}) {
    n += static_cast<double>(m->rows) * static_cast<double>(m->cols);
  }
  return 2.0 * n;
}

void BlockDecoder::bind_layers(WeightBinder& binder, const Placement& place, int32_t n_layers,
                               const std::function<void(int32_t)>& bind) {
  for (int32_t il = 0; il < n_layers; ++il) {
    const size_t before = binder.weight_bytes();
    binder.place_in(place.of_layer(il));
    bind(il);
    layer_bytes_.push_back(binder.weight_bytes() - before);
  }
  binder.place_in(place.of_tables(n_layers));
}

void BlockDecoder::finish_binding(WeightBinder& binder, const DecoderParams& params) {
  binder.finish();
  if (token_embd_.rows < 1 || token_embd_.rows > std::numeric_limits<int32_t>::max()) {
    fail(ErrorCode::kFormat, "[language model] token_embd.weight has %lld rows, expected 1 to 2^31 - 1",
         static_cast<long long>(token_embd_.rows));
  }
  storage_ = binder.storage();
  norm_eps_ = params.norm_eps;
  info_.arch = params.arch;
  info_.n_layers = params.n_layers;
  info_.n_embd = params.n_embd;
  info_.n_heads = params.n_heads;
  info_.n_kv_heads = params.n_kv_heads;
  info_.head_dim = params.head_dim;
  info_.n_vocab = static_cast<int32_t>(token_embd_.rows);
  info_.n_ctx_train = params.n_ctx_train;
  info_.weight_bytes = binder.weight_bytes();
  info_.layer_bytes = layer_bytes_;
}

void BlockDecoder::check_forward(const RowBatch& batch, const KvCache& cache, const Matrix& logits) const {
  const DecoderInfo& info = info_;
  const int64_t n = batch.rows.rows;
  const auto bad = [&](const char* what, int64_t is, int64_t expected) {
    fail(ErrorCode::kInvalidArgument, "[%s] %s: %lld, expected %lld", info.arch.c_str(), what,
         static_cast<long long>(is), static_cast<long long>(expected));
  };
  if (batch.rows.dtype != Dtype::kF32)
    bad("rows are not f32: type", static_cast<int64_t>(batch.rows.dtype), 0);
  if (batch.rows.cols != info.n_embd) bad("width of rows", batch.rows.cols, info.n_embd);
  const auto n_positions = static_cast<int64_t>(batch.positions.size());
  if (n_positions != n * info.n_pos) bad("number of positions", n_positions, n * info.n_pos);
  const auto n_visible = static_cast<int64_t>(batch.visible_end.size());
  if (n_visible != n) bad("number of visible ends", n_visible, n);
  const auto n_extra = static_cast<int64_t>(batch.extra.size());
  if (n_extra != 0 && n_extra != info.n_extra) bad("number of extra slices", n_extra, info.n_extra);
  for (const int32_t position : batch.positions) {
    if (position < 0) bad("a position is negative", position, 0);
  }
  const int64_t total = cache.length() + n;
  if (total > std::numeric_limits<int32_t>::max()) bad("rows of the sequence", total, INT32_MAX);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t end = batch.visible_end[static_cast<size_t>(i)];
    if (end > total) bad("a row sees beyond the batch: end", end, total);
    if (end <= cache.length() + i) bad("a row does not see itself: end", end, cache.length() + i + 1);
  }
  const int64_t width = int64_t{info.n_kv_heads} * info.head_dim;
  if (cache.n_layers() != info.n_layers) bad("layers of the cache", cache.n_layers(), info.n_layers);
  if (cache.width() != width) bad("width of the cache", cache.width(), width);
  if (row_bytes(cache.dtype(), info.head_dim) < 0) {
    fail(ErrorCode::kUnsupported,
         "[kv_dtype] %s needs heads that are a multiple of %d wide, this model's are %d; use f16",
         dtype_info(cache.dtype())->name, dtype_info(cache.dtype())->block_elems, info.head_dim);
  }
  if (logits.rows < 0 || logits.rows > n) bad("rows of logits", logits.rows, n);
  if (logits.rows > 0 && logits.cols != info.n_vocab) bad("width of logits", logits.cols, info.n_vocab);
}

void BlockDecoder::embed(const LayerBackends& on, std::span<const int32_t> ids, const Matrix& out) const {
  for (const int32_t id : ids) {
    if (id < 0 || id >= info_.n_vocab) {
      fail(ErrorCode::kInvalidArgument, "[%s] token id %d, must be in [0, %d)", info_.arch.c_str(), id,
           info_.n_vocab);
    }
  }
  if (out.rows != static_cast<int64_t>(ids.size()) || out.cols != info_.n_embd) {
    fail(ErrorCode::kInvalidArgument, "[%s] embeddings go to %lld x %lld, expected %zu x %d",
         info_.arch.c_str(), static_cast<long long>(out.rows), static_cast<long long>(out.cols), ids.size(),
         info_.n_embd);
  }
  const char* where = "token embeddings";
  const Arena::Mark mark(on.rest.arena());
  if (!on.is_split()) {
    on.rest.gather_rows({.out = out, .table = token_embd_, .ids = on.rest.upload(ids), .scale = embed_scale_},
                        where);
    return;
  }
  const Arena::Mark first_mark(on.first.arena());
  const Matrix rows = on.rest.arena().matrix(out.rows, out.cols);
  on.rest.gather_rows({.out = rows, .table = token_embd_, .ids = on.rest.upload(ids), .scale = embed_scale_},
                      where);
  on.first.convert_rows({.out = out, .x = on.first.upload(ConstMatrix(rows))}, where);
}

void BlockDecoder::forward(const LayerBackends& on, const RowBatch& batch, KvCache& cache,
                           const Matrix& logits, const RunControl& control) const {
  check_forward(batch, cache, logits);
  const int64_t n = batch.rows.rows;
  cache.make_room(n);
  const Arena::Mark mark(on.first.arena());
  // A copy that the layers may change.
  const Matrix h = on.first.arena().matrix(n, batch.rows.cols);
  on.first.convert_rows({.out = h, .x = batch.rows}, info_.arch.c_str());
  if (on.is_split()) {
    run_split(on, batch, cache, h, logits, control);
  } else {
    run_layers(on.first, batch, cache, h, {0, info_.n_layers}, control);
    write_logits(on.first, h, logits, control);
  }
  control.step("prefill", info_.n_layers, info_.n_layers);
  cache.commit(n);
}

// on.rest is the host's.
void BlockDecoder::run_split(const LayerBackends& on, const RowBatch& batch, KvCache& cache, const Matrix& h,
                             const Matrix& logits, const RunControl& control) const {
  run_layers(on.first, batch, cache, h, {0, on.n_first}, control);
  const Arena::Mark mark(on.rest.arena());
  const Matrix crossed = on.rest.arena().matrix(h.rows, h.cols);
  on.first.fetch(crossed, h);
  RowBatch rest = batch;
  std::vector<Buffer> copies(batch.extra.size());
  for (size_t k = static_cast<size_t>(on.n_first); k < batch.extra.size(); ++k) {
    rest.extra[k] = on.first.read(batch.extra[k], copies[k]);
  }
  run_layers(on.rest, rest, cache, crossed, {on.n_first, info_.n_layers}, control);
  write_logits(on.rest, crossed, logits, control);
}

void BlockDecoder::write_logits(Backend& backend, const Matrix& h, const Matrix& logits,
                                const RunControl& control) const {
  if (logits.rows == 0) return;
  const Arena::Mark mark(backend.arena());
  const Matrix last = row_range(h, h.rows - logits.rows, logits.rows);
  const Matrix x = backend.arena().matrix(last.rows, last.cols);  // a tap of its own, so not the head's norm
  backend.rms_norm({.out = x, .x = last, .weight = output_.norm, .eps = norm_eps_}, info_.arch.c_str());
  control.emit(backend, "output_norm", -1, x);
  const Matrix out = backend.output(logits);
  backend.matmul({.out = out, .x = x, .w = output_.head.weight, .bias = output_.head.bias, .residual = {}},
                 info_.arch.c_str());
  backend.fetch(logits, out);
}

void add_attention(Backend& backend, const Matrix& h, const AttentionWeights& weights,
                   const AttentionShape& shape, const RopeTable* rope, const Visible& visible, KvCache& cache,
                   int32_t layer, const char* where) {
  const Arena::Mark mark(backend.arena());
  const int64_t n_keys = keys_shown(backend, cache, cache.length() + h.rows);
  const RowNorm norm = rms(weights.norm, shape.norm_eps);
  const Matrix q = projected(backend, h, norm, weights.q, where);
  const Matrix k = projected(backend, h, norm, weights.k, where);
  const Matrix v = projected(backend, h, norm, weights.v, where);
  norm_heads(backend, q, weights.q_norm, shape, where);
  norm_heads(backend, k, weights.k_norm, shape, where);
  // Both are rotated where they are read next: keys on their way into the cache, queries inside attention.
  Rotation rotation;
  if (rope != nullptr) rotation = {rope->cos(), rope->sin(), shape.pairs};
  backend.convert_rows({.out = cache.k(layer, 0, cache.capacity()),
                        .x = k,
                        .at = visible.own,
                        .rotation = rotation,
                        .head_dim = shape.head_dim},
                       where);
  backend.convert_rows({.out = cache.v(layer, 0, cache.capacity()), .x = v, .at = visible.own}, where);
  const Matrix attended = backend.arena().matrix(q.rows, q.cols);
  backend.attention({.out = attended,
                     .q = q,
                     .k = cache.k(layer, 0, n_keys),
                     .v = cache.v(layer, 0, n_keys),
                     .n_heads = shape.n_heads,
                     .n_kv_heads = shape.n_kv_heads,
                     .head_dim = shape.head_dim,
                     .scale = shape.scale,
                     .softcap = shape.softcap,
                     .begin = visible.begin,
                     .end = visible.end,
                     .rotation = rotation},
                    where);
  add_projected(backend, h, attended, weights.output, weights.post_norm, shape.norm_eps, where);
}

void add_gated_ffn(Backend& backend, const Matrix& h, const FfnWeights& weights, float norm_eps,
                   Activation act, const char* where) {
  const Arena::Mark mark(backend.arena());
  const RowNorm norm = rms(weights.norm, norm_eps);
  const Matrix hidden = projected(backend, h, norm, {.weight = weights.up}, where);
  backend.matmul(
      {.out = hidden, .x = h, .w = weights.gate, .act = act, .residual = {}, .norm = norm, .times = hidden},
      where);
  add_projected(backend, h, hidden, {.weight = weights.down}, weights.post_norm, norm_eps, where);
}

}  // namespace trimtok
