// gemma3: the decoder of Gemma 3 (spec 9.3, 9.6). Norms before and after attention and FFN, every head of Q
// and K normed; most layers see a window of the sequence and have a RoPE base of their own.
#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/gguf/quote.h"
#include "engine/language/block.h"

namespace trimtok {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr double kMinPositive = std::numeric_limits<float>::min();

struct Layer {
  AttentionWeights attention;
  FfnWeights ffn;
  bool windowed = false;
  std::string name;  // for messages
};

class Gemma3 final : public BlockDecoder {
 public:
  Gemma3(const std::shared_ptr<const GgufFile>& file, const Placement& place);

 private:
  void bind_layer(WeightBinder& b, int32_t il);
  void run_layers(Backend& backend, const RowBatch& batch, KvCache& cache, const Matrix& h, LayerRange range,
                  const RunControl& control) const override;
  void read_windows(const GgufFile& file);
  std::vector<int32_t> window_begin(const RowBatch& batch, int64_t first) const;

  DecoderParams params_;
  AttentionShape shape_;
  int64_t window_ = 0;  // rows that a windowed layer sees, itself included
  std::vector<Layer> layers_;
  RopeFrequencies rope_, window_rope_;
};

// The pattern is a period (every n-th layer sees everything) or one flag per layer.
void Gemma3::read_windows(const GgufFile& file) {
  const std::string prefix = params_.arch + ".attention.";
  window_ = file.get_int(prefix + "sliding_window", 1, kMaxInt32, kMaxInt32);
  const std::string key = prefix + "sliding_window_pattern";
  const MetaValue* value = file.find(key);
  if (value != nullptr && std::holds_alternative<MetaArray>(*value)) {
    const std::vector<int64_t> flags = file.get_per_layer(key, params_.n_layers, 0, 1, std::nullopt);
    for (size_t i = 0; i < layers_.size(); ++i) layers_[i].windowed = flags[i] != 0;
    return;
  }
  const auto period = static_cast<size_t>(file.get_int(key, 1, kMaxInt32, 6));
  for (size_t i = 0; i < layers_.size(); ++i) layers_[i].windowed = (i + 1) % period != 0;
}

// Hyper-parameters: the common ones, attention.sliding_window, attention.sliding_window_pattern,
// rope.freq_base_swa. Weights: D n_embd, Q n_heads * head_dim, K n_kv_heads * head_dim, E head_dim, F n_ff, V
// vocabulary. Norm weights hold the + 1 of the original already.
Gemma3::Gemma3(const std::shared_ptr<const GgufFile>& file, const Placement& place)
    : params_(read_decoder_params(*file, "gemma3")), layers_(static_cast<size_t>(params_.n_layers)) {
  // The 27B model, told by its layers, scales by the width of a head that it does not have (spec 9.3).
  if (params_.n_layers == 62 && !file->has(params_.arch + ".attention.scale")) {
    params_.attention_scale = 1.0f / std::sqrt(static_cast<float>(params_.n_embd / params_.n_heads));
  }
  shape_ = attention_shape(params_, RopePairs::kHalves);
  shape_.softcap =
      static_cast<float>(file->get_float(params_.arch + ".attn_logit_softcapping", 0.0, 1e6, 0.0));
  if (file->get_float(params_.arch + ".final_logit_softcapping", 0.0, 1e6, 0.0) > 0.0) {
    fail(ErrorCode::kUnsupported,
         "[language model] %s: key %s.final_logit_softcapping is set, expected none: no released Gemma 3 has "
         "it",
         quote_path(file->path()).c_str(), params_.arch.c_str());
  }
  read_windows(*file);
  const RopeScaling scaling = read_rope_scaling(*file, params_.arch, params_.n_ctx_train);
  const double window_base =
      file->get_float(params_.arch + ".rope.freq_base_swa", kMinPositive, 1e30, 10000.0);
  // Picture rows are not scaled, they come as they are.
  embed_scale_ = std::sqrt(static_cast<float>(params_.n_embd));
  WeightBinder b(file, "language model", place.of_tables(params_.n_layers));
  token_embd_ = b.matrix("token_embd.weight", -1, params_.n_embd);  // [V, D]
  bind_layers(b, place, params_.n_layers, [&](int32_t il) { bind_layer(b, il); });
  output_.norm = b.vector("output_norm.weight", params_.n_embd);
  output_.head = bind_head(b, token_embd_);  // [V, D], tied when output.weight is missing
  finish_binding(b, params_);

  rope_ = rope_frequencies(params_.n_rot, params_.rope_freq_base, scaling, nullptr);
  window_rope_ = rope_frequencies(params_.n_rot, window_base, {}, nullptr);
  for (const Layer& w : layers_) info_.flops_per_row += matmul_flops(w.attention, w.ffn);
}

void Gemma3::bind_layer(WeightBinder& b, int32_t il) {
  Layer& w = layers_[static_cast<size_t>(il)];
  const int64_t d = params_.n_embd;
  const int64_t n_q = int64_t{params_.n_heads} * params_.head_dim;
  const int64_t n_ff = params_.n_ff[static_cast<size_t>(il)];
  w.name = format("gemma3 layer %d", il);
  w.attention.norm = b.vector(block_name(il, "attn_norm.weight"), d);
  bind_qkv(b, il, params_, Bias::kOptional, w.attention);  // [Q, D], [K, D], [K, D]
  w.attention.q_norm = b.vector(block_name(il, "attn_q_norm.weight"), params_.head_dim);  // [E]
  w.attention.k_norm = b.vector(block_name(il, "attn_k_norm.weight"), params_.head_dim);  // [E]
  w.attention.output = bind_projection(b, block_name(il, "attn_output"), d, n_q, Bias::kOptional);
  w.attention.post_norm = b.vector(block_name(il, "post_attention_norm.weight"), d);
  w.ffn.norm = b.vector(block_name(il, "ffn_norm.weight"), d);
  w.ffn.gate = b.matrix(block_name(il, "ffn_gate.weight"), n_ff, d);
  w.ffn.up = b.matrix(block_name(il, "ffn_up.weight"), n_ff, d);
  w.ffn.down = b.matrix(block_name(il, "ffn_down.weight"), d, n_ff);
  w.ffn.post_norm = b.vector(block_name(il, "post_ffw_norm.weight"), d);
}

// First row that each row sees in a windowed layer. Windows count rows of the sequence, so pruned ones do not
// count. A picture's rows all see each other, however long it is: they share visible_end, and a picture is
// never cut between batches, so its first row is in this one.
std::vector<int32_t> Gemma3::window_begin(const RowBatch& batch, int64_t first) const {
  std::vector<int32_t> begin;
  int64_t picture = first;
  for (size_t i = 0; i < batch.visible_end.size(); ++i) {
    const int64_t index = first + static_cast<int64_t>(i);
    if (i == 0 || batch.visible_end[i] != batch.visible_end[i - 1]) picture = index;
    begin.push_back(static_cast<int32_t>(std::min(picture, std::max<int64_t>(0, index - window_ + 1))));
  }
  return begin;
}

void Gemma3::run_layers(Backend& backend, const RowBatch& batch, KvCache& cache, const Matrix& h,
                        LayerRange range, const RunControl& control) const {
  const Arena::Mark mark(backend.arena());
  const std::vector<int32_t> begin(static_cast<size_t>(h.rows), 0);
  const std::vector<int32_t> late_begin = window_begin(batch, cache.length());
  const std::vector<int32_t> places = cache.next(h.rows);
  const int32_t* end = backend.upload(std::span<const int32_t>(batch.visible_end));
  const int32_t* own = backend.upload(std::span<const int32_t>(places));
  const Visible everything{.begin = backend.upload(std::span<const int32_t>(begin)), .end = end, .own = own};
  const Visible window{.begin = backend.upload(std::span<const int32_t>(late_begin)), .end = end, .own = own};
  const RopeTable rope(backend, rope_, batch.positions);
  const RopeTable window_rope(backend, window_rope_, batch.positions);
  for (int32_t il = range.first; il < range.last; ++il) {
    control.step("prefill", il, info_.n_layers);
    const Layer& w = layers_[static_cast<size_t>(il)];
    add_attention(backend, h, w.attention, shape_, w.windowed ? &window_rope : &rope,
                  w.windowed ? window : everything, cache, il, w.name.c_str());
    add_gated_ffn(backend, h, w.ffn, shape_.norm_eps, Activation::kGeluTanh, w.name.c_str());
    control.emit(backend, "layer_out", il, h);
  }
}

}  // namespace

std::unique_ptr<Decoder> load_gemma3(std::shared_ptr<const GgufFile> file, const Placement& place) {
  return std::make_unique<Gemma3>(file, place);
}

}  // namespace trimtok
