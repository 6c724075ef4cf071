// The steps that decoder layers are made of (spec 9.1). A decoder file strings them together; what differs
// between architectures is an argument or an absent weight, never a name.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/core/backend.h"
#include "engine/gguf/weights.h"
#include "engine/language/decoder.h"
#include "engine/language/params.h"
#include "engine/language/rope_table.h"

namespace trimtok {

struct Projection {
  ConstMatrix weight;
  const float* bias = nullptr;  // null: none
};

struct AttentionWeights {
  const float* norm = nullptr;  // [n_embd]
  Projection q, k, v, output;
  const float* q_norm = nullptr;  // [head_dim], of every head before RoPE; null: none
  const float* k_norm = nullptr;
  const float* post_norm = nullptr;  // [n_embd], of what attention adds; null: none
};

struct FfnWeights {
  const float* norm = nullptr;  // [n_embd]
  ConstMatrix gate, up, down;
  const float* post_norm = nullptr;  // [n_embd], of what the FFN adds; null: none
};

struct OutputWeights {
  const float* norm = nullptr;  // [n_embd]
  Projection head;              // token_embd again when the file ties them
};

// What every attention layer of a decoder shares.
struct AttentionShape {
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
  float scale = 0;
  float norm_eps = 0;
  RopePairs pairs = RopePairs::kHalves;
  float softcap = 0;  // of scores; 0: none
};
AttentionShape attention_shape(const DecoderParams& params, RopePairs pairs);

// Binding. A weight's name is "blk.N." + suffix.
enum class Bias { kOptional, kRequired };
std::string block_name(int32_t layer, const char* suffix);
Projection bind_projection(WeightBinder& binder, const std::string& name, int64_t rows, int64_t cols,
                           Bias bias);
// attn_q, attn_k, attn_v, or attn_qkv cut into views of its rows (q, then k, then v).
void bind_qkv(WeightBinder& binder, int32_t layer, const DecoderParams& params, Bias bias,
              AttentionWeights& weights);
// output.weight and output.bias, or `token_embd` when there is no output.weight.
Projection bind_head(WeightBinder& binder, const ConstMatrix& token_embd);

double matmul_flops(const AttentionWeights& attention, const FfnWeights& ffn);

// Keys that each row of a batch sees in a layer.
struct Visible {
  const int32_t* begin = nullptr;  // [T]
  const int32_t* end = nullptr;    // [T]
  const int32_t* own = nullptr;    // [T]: the row's own, its place in the cache
};

// h += output(attention(norm(h))). Writes keys and values of all rows to the cache, behind cache.length(),
// before any row attends: rows may see later rows of their own batch. rope: null where a layer has none.
void add_attention(Backend& backend, const Matrix& h, const AttentionWeights& weights,
                   const AttentionShape& shape, const RopeTable* rope, const Visible& visible, KvCache& cache,
                   int32_t layer, const char* where);
// h += down(act(gate(norm(h))) * up(norm(h))).
void add_gated_ffn(Backend& backend, const Matrix& h, const FfnWeights& weights, float norm_eps,
                   Activation act, const char* where);

// What decoders have in common beside their layers: the tables at both ends, and the way of a batch between
// them, over one backend or two. A decoder binds the tables and says what its layers do.
class BlockDecoder : public Decoder {
 public:
  const DecoderInfo& info() const final { return info_; }
  void embed(const LayerBackends& on, std::span<const int32_t> ids, const Matrix& out) const final;
  void forward(const LayerBackends& on, const RowBatch& batch, KvCache& cache, const Matrix& logits,
               const RunControl& control) const final;

 protected:
  // bind(il) for every layer, whose weights go where the layer is to lie; leaves the binder at the tables'
  // place.
  void bind_layers(WeightBinder& binder, const Placement& place, int32_t n_layers,
                   const std::function<void(int32_t)>& bind);
  // After the last weight: reports the gaps and fills info_, but for n_pos, n_extra and flops_per_row.
  void finish_binding(WeightBinder& binder, const DecoderParams& params);

  struct LayerRange {
    int32_t first = 0;
    int32_t last = 0;
  };
  // h: the batch's rows after layer range.first - 1, changed in place; they and everything else lie in memory
  // of `backend`. Calls control.step() and taps "layer_out" for every layer.
  virtual void run_layers(Backend& backend, const RowBatch& batch, KvCache& cache, const Matrix& h,
                          LayerRange range, const RunControl& control) const = 0;

  DecoderInfo info_;
  float embed_scale_ = 1.0f;
  ConstMatrix token_embd_;  // [V, D]
  OutputWeights output_;

 private:
  void check_forward(const RowBatch& batch, const KvCache& cache, const Matrix& logits) const;
  void run_split(const LayerBackends& on, const RowBatch& batch, KvCache& cache, const Matrix& h,
                 const Matrix& logits, const RunControl& control) const;
  // logits = head(norm(last logits.rows rows of h)). Tap: "output_norm".
  void write_logits(Backend& backend, const Matrix& h, const Matrix& logits, const RunControl& control) const;

  float norm_eps_ = 0;
  std::vector<size_t> layer_bytes_;
  std::shared_ptr<const WeightBinder::Storage> storage_;
};

}  // namespace trimtok
