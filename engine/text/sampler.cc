#include "engine/text/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/core/error.h"

namespace trimtok {
namespace {

void check(bool ok, const char* name, double value, const char* range) {
  if (!ok) fail(ErrorCode::kInvalidArgument, "[sampler] %s is %g, expected %s", name, value, range);
}

}  // namespace

void SamplingOptions::validate() const {
  check(std::isfinite(temperature) && temperature >= 0.0f, "temperature", static_cast<double>(temperature),
        "a finite number >= 0");
  check(top_k >= 0, "top_k", static_cast<double>(top_k), "an integer >= 0 (0 switches it off)");
  check(top_p > 0.0f && top_p <= 1.0f, "top_p", static_cast<double>(top_p),
        "0 < top_p <= 1 (1 switches it off)");
  check(min_p >= 0.0f && min_p < 1.0f, "min_p", static_cast<double>(min_p),
        "0 <= min_p < 1 (0 switches it off)");
  check(std::isfinite(repeat_penalty) && repeat_penalty > 0.0f, "repeat_penalty",
        static_cast<double>(repeat_penalty), "a finite number > 0 (1 switches it off)");
}

Sampler::Sampler(const SamplingOptions& options, std::vector<int32_t> suppressed)
    : options_(options), suppressed_(std::move(suppressed)), rng_(options.seed) {
  options_.validate();
  for (const int32_t id : suppressed_) {
    if (id < 0)
      fail(ErrorCode::kInvalidArgument, "[sampler] suppressed id %d is negative, expected a token id", id);
  }
}

void Sampler::accept(int32_t id) {
  if (id < 0)
    fail(ErrorCode::kInvalidArgument, "[sampler] accepted id %d is negative, expected a token id", id);
  const auto it = std::lower_bound(seen_.begin(), seen_.end(), id);
  if (it == seen_.end() || *it != id) seen_.insert(it, id);
}

int32_t Sampler::sample(std::span<const float> logits) {
  if (logits.empty() || logits.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    fail(ErrorCode::kInvalidArgument, "[sampler] %zu logits, expected one per token of the vocabulary",
         logits.size());
  }
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity()) {
      fail(ErrorCode::kNumerics, "[sampler] the logit of token %zu is %s, expected a finite number or -inf",
           i, std::isnan(logits[i]) ? "NaN" : "+inf");
    }
  }
  collect(logits);
  if (options_.temperature == 0.0f) {
    return std::min_element(candidates_.begin(), candidates_.end(), better)->id;
  }
  keep_top_k();
  keep_top_p();
  keep_min_p();
  return draw();
}

void Sampler::collect(std::span<const float> logits) {
  constexpr float kOff = -std::numeric_limits<float>::infinity();
  scratch_.assign(logits.begin(), logits.end());
  for (const int32_t id : suppressed_) {
    if (static_cast<size_t>(id) < scratch_.size()) scratch_[id] = kOff;
  }
  for (const int32_t id : seen_) {
    if (static_cast<size_t>(id) >= scratch_.size()) break;
    const float value = scratch_[id];
    const float penalised = value > 0.0f ? value / options_.repeat_penalty : value * options_.repeat_penalty;
    // A tiny penalty must not overflow into +inf; -inf (never sampled) is a legal outcome.
    scratch_[id] = std::min(penalised, std::numeric_limits<float>::max());
  }
  candidates_.clear();
  for (size_t i = 0; i < scratch_.size(); ++i) {
    if (scratch_[i] != kOff) candidates_.push_back({scratch_[i], static_cast<int32_t>(i)});
  }
  if (candidates_.empty()) {
    fail(ErrorCode::kNumerics,
         "[sampler] all %zu logits are -inf or suppressed, expected at least one finite number",
         scratch_.size());
  }
}

void Sampler::keep_top_k() {
  const auto k = static_cast<size_t>(options_.top_k);
  if (k == 0 || k >= candidates_.size()) return;
  const auto middle = candidates_.begin() + static_cast<std::ptrdiff_t>(k);
  std::nth_element(candidates_.begin(), middle, candidates_.end(), better);
  candidates_.resize(k);
  std::sort(candidates_.begin(), candidates_.end(), better);
}

// The shortest list of best candidates whose probability reaches top_p, at least one.
void Sampler::keep_top_p() {
  if (options_.top_p >= 1.0f) return;
  const float best = std::min_element(candidates_.begin(), candidates_.end(), better)->logit;
  const auto weight = [best](const Candidate& c) {
    return std::exp(static_cast<double>(c.logit) - static_cast<double>(best));
  };
  double total = 0.0;
  for (const Candidate& c : candidates_) total += weight(c);
  const double wanted = static_cast<double>(options_.top_p) * total;
  // A heap: few of 150k candidates are usually needed, sorting them all would cost more than the rest.
  const auto worse = [](const Candidate& a, const Candidate& b) { return better(b, a); };
  std::make_heap(candidates_.begin(), candidates_.end(), worse);
  auto end = candidates_.end();
  double sum = 0.0;
  while (end != candidates_.begin() && sum < wanted) {
    std::pop_heap(candidates_.begin(), end, worse);
    --end;
    sum += weight(*end);
  }
  // The popped ones lie at the end of the vector, best last.
  std::reverse(candidates_.begin(), candidates_.end());
  candidates_.resize(static_cast<size_t>(std::distance(end, candidates_.end())));
}

void Sampler::keep_min_p() {
  if (options_.min_p <= 0.0f) return;
  const float best = std::min_element(candidates_.begin(), candidates_.end(), better)->logit;
  const double floor = static_cast<double>(best) + std::log(static_cast<double>(options_.min_p));
  std::erase_if(candidates_, [floor](const Candidate& c) { return static_cast<double>(c.logit) < floor; });
}

int32_t Sampler::draw() {
  const double best =
      static_cast<double>(std::min_element(candidates_.begin(), candidates_.end(), better)->logit);
  const double temperature = static_cast<double>(options_.temperature);
  const auto weight = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.logit) - best) / temperature);
  };
  double total = 0.0;
  for (const Candidate& c : candidates_) total += weight(c);
  // 53 random bits; not a standard distribution, whose results differ between libraries.
  const double target = static_cast<double>(rng_() >> 11) * 0x1.0p-53 * total;
  double sum = 0.0;
  int32_t chosen = -1;
  for (const Candidate& c : candidates_) {
    const double w = weight(c);
    if (w <= 0.0) continue;
    chosen = c.id;  // stays the last possible one if rounding leaves sum below target
    sum += w;
    if (sum > target) break;
  }
  return chosen;
}

}  // namespace trimtok
