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
  // M-RoPE: the component of the position that turns pair k; empty: positions have one component.
  std::vector<int32_t> axes = {};  // [R/2], each in [0, kMropeAxes)
};
inline constexpr int32_t kMropeAxes = 3;  // t, h, w

// `<arch>.rope.dimension_sections` as axes. Contiguous: the first section of pairs turns with t, the next
// with h, the next with w. Interleaved: t h w t h w ... as far as the sections of h and w reach, then t.
enum class MropeLayout { kContiguous, kInterleaved };
// Throws Error(kFormat) naming file and key when the sections do not make n_rot / 2 pairs.
std::vector<int32_t> read_mrope_axes(const GgufFile& file, const std::string& arch, int32_t n_rot,
                                     MropeLayout layout);

// factors: [n_rot/2] divisors, from the tensor `name`, or null. Throws Error(kFormat) when one of them is not
// positive.
RopeFrequencies rope_frequencies(int32_t n_rot, double freq_base, const RopeScaling& scaling,
                                 const float* factors, const char* name = "rope_freqs.weight");

// cos and sin of one batch, shared by all layers of one frequency set. Angles are doubles: at position
// 100,000 an f32 angle is off by up to 0.004.
class RopeTable {
 public:
  // positions: [T], or [kMropeAxes, T] when the frequencies have axes.
  RopeTable(Backend& backend, const RopeFrequencies& frequencies, std::span<const int32_t> positions);
  ConstMatrix cos() const { return cos_; }
  ConstMatrix sin() const { return sin_; }

 private:
  std::vector<float> values_;  // what the views look at on the CPU
  ConstMatrix cos_, sin_;      // [T, R/2]
};

}  // namespace trimtok
