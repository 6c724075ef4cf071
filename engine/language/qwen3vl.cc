// qwen3vl: the decoder of Qwen3-VL (spec 8.5, 9.1, 9.5). As qwen3, but the components (t, h, w) of a position
// take turns among the pairs, and picture rows bring slices that are added after the first layers
// (deepstack). Pairs that the interleaving does not reach turn with t, as in the original; llama.cpp gives
// some of them position 0 (spec 6.4).
#include "engine/language/pre_norm.h"

namespace trimtok {

std::unique_ptr<Decoder> load_qwen3vl(std::shared_ptr<const GgufFile> file, const Placement& place) {
  return load_pre_norm(
      file, place,
      {.arch = "qwen3vl", .head_norms = true, .mrope = MropeLayout::kInterleaved, .deepstack = true});
}

}  // namespace trimtok
