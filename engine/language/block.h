// The steps that decoder layers are made of (spec 9.1). A decoder file strings them together; what differs
// between architectures is an argument or an absent weight, never a name.
#pragma once

#include <cstdint>
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

// What DecoderInfo says about matrices bound so far.
DecoderInfo decoder_info(const DecoderParams& params, const ConstMatrix& token_embd);
double matmul_flops(const AttentionWeights& attention, const FfnWeights& ffn);

// Throws Error(kInvalidArgument) when the batch, the cache or `logits` do not fit the decoder or each other.
void check_forward(const DecoderInfo& info, const RowBatch& batch, const KvCache& cache,
                   const Matrix& logits);
void gather_embeddings(Backend& backend, const DecoderInfo& info, const ConstMatrix& token_embd,
                       std::span<const int32_t> ids, float scale, const Matrix& out);

// Keys that each row of a batch sees in a layer.
struct Visible {
  const int32_t* begin = nullptr;  // [T]
  const int32_t* end = nullptr;    // [T]
};

// A copy of the batch's rows that the layers may change.
Matrix hidden_rows(Backend& backend, const RowBatch& batch, const char* where);
// h += output(attention(norm(h))). Writes keys and values of all rows to the cache, behind cache.length(),
// before any row attends: rows may see later rows of their own batch.
void add_attention(Backend& backend, const Matrix& h, const AttentionWeights& weights,
                   const AttentionShape& shape, const RopeTable& rope, const Visible& visible, KvCache& cache,
                   int32_t layer, const char* where);
// h += down(act(gate(norm(h))) * up(norm(h))).
void add_gated_ffn(Backend& backend, const Matrix& h, const FfnWeights& weights, float norm_eps,
                   Activation act, const char* where);
// logits = head(norm(last logits.rows rows of h)). Tap: "output_norm".
void write_logits(Backend& backend, const Matrix& h, const OutputWeights& weights, float norm_eps,
                  const Matrix& logits, const RunControl& control, const char* where);

}  // namespace trimtok
