// Chooses the next token from logits.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace trimtok {

struct SamplingOptions {
  float temperature = 0.0f;     // >= 0; 0 takes the largest logit, ties to the lowest id
  int32_t top_k = 40;           // 0: off
  float top_p = 0.95f;          // (0, 1]; 1: off
  float min_p = 0.05f;          // [0, 1); 0: off
  float repeat_penalty = 1.0f;  // > 0; 1: off. Divides positive, multiplies negative logits of seen tokens.
  uint64_t seed = 0;

  void validate() const;  // throws Error(kInvalidArgument) with the allowed range
};

// Order: suppressed ids, repeat penalty, temperature 0 shortcut, top_k, top_p, min_p, temperature, draw.
// top_p and min_p see probabilities at temperature 1, renormalised over what the steps before them left.
class Sampler {
 public:
  Sampler(const SamplingOptions& options, std::vector<int32_t> suppressed);
  // Tokens that count as seen: the text of the prompt and what was generated, never image rows.
  void accept(int32_t id);
  // Throws Error(kNumerics) when a logit is NaN or +inf, or all that are not suppressed are -inf.
  // Takes one number from the generator unless temperature is 0.
  int32_t sample(std::span<const float> logits);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  // A strict order: no two candidates are equal, so selections do not depend on the algorithm.
  static bool better(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  }

  void collect(std::span<const float> logits);
  void keep_top_k();
  void keep_top_p();
  void keep_min_p();
  int32_t draw();

  SamplingOptions options_;
  std::vector<int32_t> suppressed_;
  std::vector<int32_t> seen_;  // sorted, unique
  std::mt19937_64 rng_;
  std::vector<float> scratch_;         // logits after the first two steps
  std::vector<Candidate> candidates_;  // those above -inf; best first once a selection has run
};

}  // namespace trimtok
