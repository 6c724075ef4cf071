// smollm3: SmolLM3 (spec 9.1): as llama, but every fourth layer has no RoPE. The converter permuted the rows
// of Q and K, so the others rotate adjacent pairs (spec 5.1).
#include "engine/language/pre_norm.h"

namespace trimtok {

namespace {

// No key says which layers do without; all released models and every engine use this period.
bool has_rope(int32_t layer) {
  return (layer + 1) % 4 != 0;
}

}  // namespace

std::unique_ptr<Decoder> load_smollm3(std::shared_ptr<const GgufFile> file, const Placement& place) {
  return load_pre_norm(file, place, {.arch = "smollm3", .pairs = RopePairs::kAdjacent, .has_rope = has_rope});
}

}  // namespace trimtok
