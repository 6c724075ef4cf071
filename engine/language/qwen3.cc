// qwen3: Qwen3, e.g. the language model of InternVL 3.5 (spec 9.1). Q, K and V have no biases; every head of
// Q and K is normed before RoPE, which rotates the two halves of a head.
#include "engine/language/pre_norm.h"

namespace trimtok {

std::unique_ptr<Decoder> load_qwen3(std::shared_ptr<const GgufFile> file, const Placement& place) {
  return load_pre_norm(file, place, {.arch = "qwen3", .head_norms = true});
}

}  // namespace trimtok
