// qwen2: Qwen2, Qwen2.5 and what is built on them, e.g. InternVL's language model (spec 9.1). Q, K and V have
// biases; RoPE rotates the two halves of a head.
#include "engine/language/pre_norm.h"

namespace trimtok {

std::unique_ptr<Decoder> load_qwen2(std::shared_ptr<const GgufFile> file, const Placement& place) {
  return load_pre_norm(file, place, {.arch = "qwen2", .qkv_bias = Bias::kRequired});
}

}  // namespace trimtok
