// phi3: Phi-3, Phi-3.5 and Phi-4 mini (spec 9.1). Q, K, V are one matrix, gate and up are another; attention
// looks back over a window; files for long contexts hold two sets of RoPE divisors.
#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/language/block.h"

namespace trimtok {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr const char* kAttnFactor = "phi3.rope.scaling.attn_factor";

struct Layer {
  AttentionWeights attention;
  FfnWeights ffn;
  std::string name;  // for messages
};

class Phi3 final : public BlockDecoder {
 public:
  Phi3(const std::shared_ptr<const GgufFile>& file, const Placement& place);

 private:
  RopeScaling read_scaling(const GgufFile& file, bool has_factors) const;
  void bind_layer(WeightBinder& b, int32_t il);
  const RopeFrequencies& frequencies(const RowBatch& batch) const;
  void run_layers(Backend& backend, const RowBatch& batch, KvCache& cache, const Matrix& h, LayerRange range,
                  const RunControl& control) const override;

  DecoderParams params_;
  AttentionShape shape_;
  int64_t window_ = 0;          // rows that a row sees, itself included; 0: all before it
  int64_t n_ctx_original_ = 0;  // positions that the short divisors serve
  std::vector<Layer> layers_;
  RopeFrequencies short_rope_, long_rope_;
};

// Hyper-parameters: besides the common ones the window and the context that the model had before it was
// stretched. Weights: D n_embd, Q n_heads * head_dim, K n_kv_heads * head_dim, F n_ff, V vocabulary, R
// rotated elements.
Phi3::Phi3(const std::shared_ptr<const GgufFile>& file, const Placement& place)
    : params_(read_decoder_params(*file, "phi3")),
      shape_(attention_shape(params_, RopePairs::kHalves)),
      layers_(static_cast<size_t>(params_.n_layers)) {
  window_ = file->get_int("phi3.attention.sliding_window", 0, kMaxInt32, 0);
  n_ctx_original_ =
      file->get_int("phi3.rope.scaling.original_context_length", 1, kMaxInt32, params_.n_ctx_train);
  WeightBinder b(file, "language model", place.of_tables(params_.n_layers));
  token_embd_ = b.matrix("token_embd.weight", -1, params_.n_embd);  // [V, D]
  const char* short_name = "rope_factors_short.weight";
  const char* long_name = "rope_factors_long.weight";
  const bool has_factors = b.has(short_name) || b.has(long_name);
  const int64_t n_pairs = params_.n_rot / 2;
  const float* short_factors = has_factors ? b.host_vector(short_name, n_pairs) : nullptr;  // [R/2]
  const float* long_factors = has_factors ? b.host_vector(long_name, n_pairs) : nullptr;    // [R/2]
  bind_layers(b, place, params_.n_layers, [&](int32_t il) { bind_layer(b, il); });
  output_.norm = b.vector("output_norm.weight", params_.n_embd);
  output_.head = bind_head(b, token_embd_);  // [V, D], tied when output.weight is missing; bias optional
  finish_binding(b, params_);

  const RopeScaling scaling = read_scaling(*file, has_factors);
  const double base = params_.rope_freq_base;
  short_rope_ = rope_frequencies(params_.n_rot, base, scaling, short_factors, short_name);
  long_rope_ = rope_frequencies(params_.n_rot, base, scaling, long_factors, long_name);
  for (const Layer& w : layers_) info_.flops_per_row += matmul_flops(w.attention, w.ffn);
}

void Phi3::bind_layer(WeightBinder& b, int32_t il) {
  Layer& w = layers_[static_cast<size_t>(il)];
  const int64_t d = params_.n_embd;
  const int64_t n_ff = params_.n_ff[static_cast<size_t>(il)];
  w.name = format("phi3 layer %d", il);
  w.attention.norm = b.vector(block_name(il, "attn_norm.weight"), d);
  bind_qkv(b, il, params_, Bias::kOptional, w.attention);  // [Q + 2 K, D]
  w.attention.output = bind_projection(b, block_name(il, "attn_output"), d,
                                       int64_t{params_.n_heads} * params_.head_dim, Bias::kOptional);
  w.ffn.norm = b.vector(block_name(il, "ffn_norm.weight"), d);
  const std::string gate = block_name(il, "ffn_gate.weight"), up = block_name(il, "ffn_up.weight");
  if (b.has(gate)) {
    w.ffn.gate = b.matrix(gate, n_ff, d);
    w.ffn.up = b.matrix(up, n_ff, d);
  } else {
    const ConstMatrix fused = b.matrix(up, 2 * n_ff, d);  // [2 F, D], gate first
    w.ffn.gate = row_range(fused, 0, n_ff);
    w.ffn.up = row_range(fused, n_ff, n_ff);
  }
  w.ffn.down = b.matrix(block_name(il, "ffn_down.weight"), d, n_ff);
}

// Most files leave the type out and have the tensors instead; "longrope" says the same in words.
RopeScaling Phi3::read_scaling(const GgufFile& file, bool has_factors) const {
  RopeScaling scaling;
  if (file.get_string("phi3.rope.scaling.type", "linear") != "longrope") {
    scaling = read_rope_scaling(file, params_.arch, params_.n_ctx_train);
  } else {
    scaling.magnitude = file.get_float(kAttnFactor, 1e-6, 1e6, 1.0);
  }
  if (has_factors && !file.has(kAttnFactor)) {  // the original's rule
    const double stretch = static_cast<double>(params_.n_ctx_train) / static_cast<double>(n_ctx_original_);
    if (stretch > 1.0 && n_ctx_original_ > 1) {
      scaling.magnitude = std::sqrt(1.0 + std::log(stretch) / std::log(static_cast<double>(n_ctx_original_)));
    }
  }
  return scaling;
}

// The original looks at how far a sequence reaches and starts anew when an answer crosses the border. Here
// the answer's limit counts from the start, so that keys in the cache need never be turned again.
const RopeFrequencies& Phi3::frequencies(const RowBatch& batch) const {
  int64_t reach = batch.n_positions;
  if (reach == 0) {
    for (const int32_t position : batch.positions) reach = std::max(reach, int64_t{position} + 1);
  }
  return reach > n_ctx_original_ ? long_rope_ : short_rope_;
}

void Phi3::run_layers(Backend& backend, const RowBatch& batch, KvCache& cache, const Matrix& h,
                      LayerRange range, const RunControl& control) const {
  const int64_t n = h.rows;
  const Arena::Mark mark(backend.arena());
  std::vector<int32_t> begin(static_cast<size_t>(n), 0);
  if (window_ > 0) {
    for (int64_t i = 0; i < n; ++i) {
      const int64_t first = cache.length() + i - window_ + 1;
      begin[static_cast<size_t>(i)] = static_cast<int32_t>(std::max<int64_t>(first, 0));
    }
  }
  const std::vector<int32_t> own = cache.next(n);
  const Visible visible{.begin = backend.upload(std::span<const int32_t>(begin)),
                        .end = backend.upload(std::span<const int32_t>(batch.visible_end)),
                        .own = backend.upload(std::span<const int32_t>(own))};
  const RopeTable rope(backend, frequencies(batch), batch.positions);
  for (int32_t il = range.first; il < range.last; ++il) {
    control.step("prefill", il, info_.n_layers);
    const Layer& w = layers_[static_cast<size_t>(il)];
    add_attention(backend, h, w.attention, shape_, &rope, visible, cache, il, w.name.c_str());
    add_gated_ffn(backend, h, w.ffn, shape_.norm_eps, Activation::kSilu, w.name.c_str());
    control.emit(backend, "layer_out", il, h);
  }
}

}  // namespace

std::unique_ptr<Decoder> load_phi3(std::shared_ptr<const GgufFile> file, const Placement& place) {
  return std::make_unique<Phi3>(file, place);
}

}  // namespace trimtok
