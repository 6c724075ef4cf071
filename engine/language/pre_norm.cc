#include "engine/language/pre_norm.h"

namespace trimtok {
namespace {

struct Layer {
  AttentionWeights attention;
  FfnWeights ffn;
  std::string name;  // for messages
};

class PreNormDecoder final : public BlockDecoder {
 public:
  PreNormDecoder(const std::shared_ptr<const GgufFile>& file, const Placement& place,
                 const PreNormRecipe& recipe);

 private:
  void bind_layer(WeightBinder& b, int32_t il);
  void run_layers(Backend& backend, const RowBatch& batch, KvCache& cache, const Matrix& h, LayerRange range,
                  const RunControl& control) const override;

  PreNormRecipe recipe_;
  DecoderParams params_;
  AttentionShape shape_;
  std::vector<Layer> layers_;
  RopeFrequencies rope_;
};

// Hyper-parameters: the common ones; rope.dimension_sections with M-RoPE, n_deepstack_layers with deepstack.
// Weights: D n_embd, V vocabulary, R rotated elements.
PreNormDecoder::PreNormDecoder(const std::shared_ptr<const GgufFile>& file, const Placement& place,
                               const PreNormRecipe& recipe)
    : recipe_(recipe),
      params_(read_decoder_params(*file, recipe.arch)),
      shape_(attention_shape(params_, recipe.pairs)),
      layers_(static_cast<size_t>(params_.n_layers)) {
  const RopeScaling scaling = read_rope_scaling(*file, params_.arch, params_.n_ctx_train);
  std::vector<int32_t> axes;
  if (recipe_.mrope) axes = read_mrope_axes(*file, params_.arch, params_.n_rot, *recipe_.mrope);
  const int64_t n_extra =
      recipe_.deepstack ? file->get_int(params_.arch + ".n_deepstack_layers", 0, params_.n_layers, 0) : 0;
  WeightBinder b(file, "language model", place.of_tables(params_.n_layers));
  token_embd_ = b.matrix("token_embd.weight", -1, params_.n_embd);  // [V, D]
  const float* rope_freqs = nullptr;
  if (recipe_.rope_freqs)
    rope_freqs = b.optional_host_vector("rope_freqs.weight", params_.n_rot / 2);  // [R/2]
  bind_layers(b, place, params_.n_layers, [&](int32_t il) { bind_layer(b, il); });
  output_.norm = b.vector("output_norm.weight", params_.n_embd);
  output_.head = bind_head(b, token_embd_);  // [V, D], tied when output.weight is missing; bias optional
  finish_binding(b, params_);

  rope_ = rope_frequencies(params_.n_rot, params_.rope_freq_base, scaling, rope_freqs);
  rope_.axes = axes;
  info_.n_pos = recipe_.mrope ? kMropeAxes : 1;
  info_.n_extra = static_cast<int32_t>(n_extra);
  for (const Layer& w : layers_) info_.flops_per_row += matmul_flops(w.attention, w.ffn);
}

// D n_embd, Q n_heads * head_dim, K n_kv_heads * head_dim, F n_ff.
void PreNormDecoder::bind_layer(WeightBinder& b, int32_t il) {
  Layer& w = layers_[static_cast<size_t>(il)];
  const int64_t d = params_.n_embd;
  const int64_t n_q = int64_t{params_.n_heads} * params_.head_dim;
  const int64_t n_ff = params_.n_ff[static_cast<size_t>(il)];
  w.name = format("%s layer %d", recipe_.arch, il);
  w.attention.norm = b.vector(block_name(il, "attn_norm.weight"), d);
  bind_qkv(b, il, params_, recipe_.qkv_bias, w.attention);  // [Q, D], [K, D], [K, D]
  if (recipe_.head_norms) {
    w.attention.q_norm = b.vector(block_name(il, "attn_q_norm.weight"), params_.head_dim);
    w.attention.k_norm = b.vector(block_name(il, "attn_k_norm.weight"), params_.head_dim);
  }
  w.attention.output = bind_projection(b, block_name(il, "attn_output"), d, n_q, Bias::kOptional);
  w.ffn.norm = b.vector(block_name(il, "ffn_norm.weight"), d);
  w.ffn.gate = b.matrix(block_name(il, "ffn_gate.weight"), n_ff, d);
  w.ffn.up = b.matrix(block_name(il, "ffn_up.weight"), n_ff, d);
  w.ffn.down = b.matrix(block_name(il, "ffn_down.weight"), d, n_ff);
}

void PreNormDecoder::run_layers(Backend& backend, const RowBatch& batch, KvCache& cache, const Matrix& h,
                                LayerRange range, const RunControl& control) const {
  const Arena::Mark mark(backend.arena());
  const std::vector<int32_t> begin(static_cast<size_t>(h.rows), 0);
  const std::vector<int32_t> own = cache.next(h.rows);
  const Visible visible{.begin = backend.upload(std::span<const int32_t>(begin)),
                        .end = backend.upload(std::span<const int32_t>(batch.visible_end)),
                        .own = backend.upload(std::span<const int32_t>(own))};
  const RopeTable rope(backend, rope_, batch.positions);
  for (int32_t il = range.first; il < range.last; ++il) {
    control.step("prefill", il, info_.n_layers);
    const Layer& w = layers_[static_cast<size_t>(il)];
    const bool turns = recipe_.has_rope == nullptr || recipe_.has_rope(il);
    add_attention(backend, h, w.attention, shape_, turns ? &rope : nullptr, visible, cache, il,
                  w.name.c_str());
    add_gated_ffn(backend, h, w.ffn, shape_.norm_eps, Activation::kSilu, w.name.c_str());
    if (static_cast<size_t>(il) < batch.extra.size()) {
      backend.add({.out = h, .x = h, .y = batch.extra[static_cast<size_t>(il)]}, w.name.c_str());
    }
    control.emit(backend, "layer_out", il, h);
  }
}

}  // namespace

std::unique_ptr<Decoder> load_pre_norm(const std::shared_ptr<const GgufFile>& file, const Placement& place,
                                       const PreNormRecipe& recipe) {
  return std::make_unique<PreNormDecoder>(file, place, recipe);
}

}  // namespace trimtok
