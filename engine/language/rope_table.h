// RoPE as data: angles per position, then cos/sin tables per batch. Every variant of RoPE is a different
// table, never a different kernel (spec 6.4).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/core/backend.h"
#include "engine/gguf/file.h"

namespace trimtok {

// The `<arch>.rope.scaling.` keys. factor == 1 is no scaling.
struct RopeScaling {
  double factor = 1.0;
  double magnitude = 1.0;  // multiplies cos and sin (YaRN)
  // YaRN: pairs that turn often over the original context keep their frequency, slow ones are divided by
  // factor.
  bool yarn = false;
  double ext_factor = 1.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double n_ctx_original = 0;
};
// Throws Error(kFormat | kUnsupported) naming file and key; types other than none, linear and yarn are
// unsupported.
RopeScaling read_rope_scaling(const GgufFile& file, const std::string& arch, int32_t n_ctx_train);

struct RopeFrequencies {
  std::vector<double> radians;  // [R/2], angle of pair k per unit of position, scaling included
  double magnitude = 1.0;
};
// factors: [n_rot/2] divisors, from the tensor `name`, or null. Throws Error(kFormat) when one of them is not
// positive.
RopeFrequencies rope_frequencies(int32_t n_rot, double freq_base, const RopeScaling& scaling,
                                 const float* factors, const char* name = "rope_freqs.weight");

// cos and sin of one batch, shared by all layers of one frequency set. Angles are doubles: at position
// 100,000 an f32 angle is off by up to 0.004.
class RopeTable {
 public:
  RopeTable(Backend& backend, const RopeFrequencies& frequencies, std::span<const int32_t> positions);
  ConstMatrix cos() const { return cos_; }
  ConstMatrix sin() const { return sin_; }

 private:
  std::vector<float> values_;  // what the views look at on the CPU
  ConstMatrix cos_, sin_;      // [T, R/2]
};

}  // namespace trimtok
