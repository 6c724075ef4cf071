// llama: Llama 1-3, Mistral, Vicuna, Yi, SmolLM2 and everything else converted to this architecture
// (spec 9.1). The converter permuted the rows of Q and K, so RoPE rotates adjacent pairs (spec 5.1). Old
// Mistral files carry attention.sliding_window; the released models attend to everything, and so does every
// engine.
#include "engine/language/pre_norm.h"

namespace trimtok {

std::unique_ptr<Decoder> load_llama(std::shared_ptr<const GgufFile> file, const Placement& place) {
  return load_pre_norm(file, place, {.arch = "llama", .pairs = RopePairs::kAdjacent, .rope_freqs = true});
}

}  // namespace trimtok
