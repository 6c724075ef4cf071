// smollm3: SmolLM3 (spec 9.1): as llama, but every fourth layer has no RoPE. The converter permuted the rows
// of Q and K, so the others rotate adjacent pairs (spec 5.1).
#include "engine/language/block.h"

namespace trimtok {
namespace {

// No key says which layers do without; all released models and every engine use this period.
bool has_rope(int32_t layer) {
  return (layer + 1) % 4 != 0;
}

struct Layer {
  AttentionWeights attention;
  FfnWeights ffn;
  std::string name;  // for messages
};

class SmolLm3 final : public Decoder {
 public:
  explicit SmolLm3(const std::shared_ptr<const GgufFile>& file);
  const DecoderInfo& info() const override { return info_; }
  void embed(Backend& backend, std::span<const int32_t> ids, const Matrix& out) const override {
    gather_embeddings(backend, info_, token_embd_, ids, 1.0f, out);
  }
  void forward(Backend& backend, const RowBatch& batch, KvCache& cache, const Matrix& logits,
               const RunControl& control) const override;

 private:
  DecoderParams params_;
  AttentionShape shape_;
  ConstMatrix token_embd_;
  std::vector<Layer> layers_;
  OutputWeights output_;
  RopeFrequencies rope_;
  std::shared_ptr<const WeightBinder::Storage> storage_;
  DecoderInfo info_;
};

// Hyper-parameters: only the common ones.
// Weights: D n_embd, Q n_heads * head_dim, K n_kv_heads * head_dim, F n_ff, V vocabulary.
SmolLm3::SmolLm3(const std::shared_ptr<const GgufFile>& file)
    : params_(read_decoder_params(*file, "smollm3")),
      shape_(attention_shape(params_, RopePairs::kAdjacent)),
      layers_(static_cast<size_t>(params_.n_layers)) {
  const RopeScaling scaling = read_rope_scaling(*file, params_.arch, params_.n_ctx_train);
  WeightBinder b(file, "language model");
  const int64_t d = params_.n_embd;
  const int64_t n_q = int64_t{params_.n_heads} * params_.head_dim;
  token_embd_ = b.matrix("token_embd.weight", -1, d);  // [V, D]
  for (int32_t il = 0; il < params_.n_layers; ++il) {
    Layer& w = layers_[static_cast<size_t>(il)];
    const int64_t n_ff = params_.n_ff[static_cast<size_t>(il)];
    w.name = format("smollm3 layer %d", il);
    w.attention.norm = b.vector(block_name(il, "attn_norm.weight"), d);
    bind_qkv(b, il, params_, Bias::kOptional, w.attention);  // [Q, D], [K, D], [K, D]
    w.attention.output = bind_projection(b, block_name(il, "attn_output"), d, n_q, Bias::kOptional);
    w.ffn.norm = b.vector(block_name(il, "ffn_norm.weight"), d);
    w.ffn.gate = b.matrix(block_name(il, "ffn_gate.weight"), n_ff, d);
    w.ffn.up = b.matrix(block_name(il, "ffn_up.weight"), n_ff, d);
    w.ffn.down = b.matrix(block_name(il, "ffn_down.weight"), d, n_ff);
  }
  output_.norm = b.vector("output_norm.weight", d);
  output_.head = bind_head(b, token_embd_);  // [V, D], tied when output.weight is missing; bias optional
  b.finish();

  storage_ = b.storage();
  rope_ = rope_frequencies(params_.n_rot, params_.rope_freq_base, scaling, nullptr);
  info_ = decoder_info(params_, token_embd_);
  info_.weight_bytes = storage_->weight_bytes;
  for (const Layer& w : layers_) info_.flops_per_row += matmul_flops(w.attention, w.ffn);
}

void SmolLm3::forward(Backend& backend, const RowBatch& batch, KvCache& cache, const Matrix& logits,
                      const RunControl& control) const {
  check_forward(info_, batch, cache, logits);
  const int64_t n = batch.rows.rows;
  cache.make_room(n);
  const Arena::Mark mark(backend.arena());
  const std::vector<int32_t> begin(static_cast<size_t>(n), 0);
  const Visible visible{.begin = backend.upload(std::span<const int32_t>(begin)),
                        .end = backend.upload(std::span<const int32_t>(batch.visible_end))};
  const RopeTable rope(backend, rope_, batch.positions);
  // Turning one pair by zero changes nothing: no RoPE is one more table.
  const RopeTable no_rope(backend, {.radians = {0.0}}, batch.positions);
  const Matrix h = hidden_rows(backend, batch, "smollm3 input");
  for (int32_t il = 0; il < info_.n_layers; ++il) {
    control.step("prefill", il, info_.n_layers);
    const Layer& w = layers_[static_cast<size_t>(il)];
    add_attention(backend, h, w.attention, shape_, has_rope(il) ? rope : no_rope, visible, cache, il,
                  w.name.c_str());
    add_gated_ffn(backend, h, w.ffn, shape_.norm_eps, Activation::kSilu, w.name.c_str());
    control.emit("layer_out", il, h);
  }
  write_logits(backend, h, output_, shape_.norm_eps, logits, control, "smollm3 output");
  control.step("prefill", info_.n_layers, info_.n_layers);
  cache.commit(n);
}

}  // namespace

std::unique_ptr<Decoder> load_smollm3(std::shared_ptr<const GgufFile> file) {
  return std::make_unique<SmolLm3>(file);
}

}  // namespace trimtok
