// internlm2: InternLM 2 and 2.5, the language model of some InternVL sizes (spec 9.1). The converter took the
// original's fused rows apart and permuted those of Q and K, so RoPE rotates adjacent pairs (spec 5.1).
#include "engine/language/pre_norm.h"

namespace trimtok {

std::unique_ptr<Decoder> load_internlm2(std::shared_ptr<const GgufFile> file, const Placement& place) {
  return load_pre_norm(file, place, {.arch = "internlm2", .pairs = RopePairs::kAdjacent});
}

}  // namespace trimtok
