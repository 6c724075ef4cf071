// Hyper-parameters that every decoder reads from its `<arch>.` keys (spec 4.3), checked (spec 1.9, point 12).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/gguf/file.h"

namespace trimtok {

struct DecoderParams {
  std::string arch;
  int32_t n_layers = 0;
  int32_t n_embd = 0;
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t n_rot = 0;  // rotated elements of a head, even
  int32_t n_ctx_train = 0;
  std::vector<int64_t> n_ff;  // [n_layers]
  double rope_freq_base = 0;
  float norm_eps = 0;
  float attention_scale = 0;
};

// Throws Error(kFormat) naming file and key, Error(kUnsupported) for mixtures of experts and for head counts
// that differ between layers.
DecoderParams read_decoder_params(const GgufFile& file, const std::string& arch);

}  // namespace trimtok
