// The decoder that most architectures are: norm before attention and FFN, RoPE, SwiGLU. What tells them apart
// is a recipe; an architecture that computes something else has a Decoder of its own (gemma3.cc, phi3.cc).
#pragma once

#include <optional>

#include "engine/language/block.h"

namespace trimtok {

struct PreNormRecipe {
  const char* arch;  // general.architecture
  RopePairs pairs = RopePairs::kHalves;
  Bias qkv_bias = Bias::kOptional;
  bool head_norms = false;  // every head of Q and K is normed before RoPE
  bool rope_freqs = false;  // rope_freqs.weight, where there is one, divides the frequencies
  // Positions have three components (t, h, w), from rope.dimension_sections (spec 9.5).
  std::optional<MropeLayout> mrope = std::nullopt;
  bool deepstack = false;                     // picture rows bring slices for the first layers (spec 8.5)
  bool (*has_rope)(int32_t layer) = nullptr;  // null: every layer has
};

std::unique_ptr<Decoder> load_pre_norm(const std::shared_ptr<const GgufFile>& file, const Placement& place,
                                       const PreNormRecipe& recipe);

}  // namespace trimtok
