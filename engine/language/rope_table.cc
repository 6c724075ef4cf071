#include "engine/language/rope_table.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "engine/core/error.h"
#include "engine/gguf/quote.h"

namespace trimtok {
namespace {

constexpr double kMinPositive = std::numeric_limits<float>::min();
constexpr double kMaxFactor = 1e6;

// Magnitude that YaRN gives attention for a context stretched by `factor`.
double yarn_magnitude(double factor, double log_multiplier) {
  return factor <= 1.0 ? 1.0 : 1.0 + 0.1 * log_multiplier * std::log(factor);
}

void read_yarn(const GgufFile& file, const std::string& prefix, int32_t n_ctx_train, RopeScaling& s) {
  s.yarn = true;
  s.n_ctx_original = static_cast<double>(
      file.get_int(prefix + "original_context_length", 1, std::numeric_limits<int32_t>::max(), n_ctx_train));
  s.ext_factor = file.get_float(prefix + "yarn_ext_factor", 0.0, 1.0, 1.0);
  s.beta_fast = file.get_float(prefix + "yarn_beta_fast", kMinPositive, kMaxFactor, 32.0);
  s.beta_slow = file.get_float(prefix + "yarn_beta_slow", kMinPositive, kMaxFactor, 1.0);
  const double log_multiplier = file.get_float(prefix + "yarn_log_multiplier", 0.0, kMaxFactor, 0.0);
  if (s.ext_factor > 0.0) {
    s.magnitude = yarn_magnitude(s.factor, 1.0) / yarn_magnitude(s.factor, log_multiplier);
  }
  s.magnitude *= file.get_float(prefix + "yarn_attn_factor", kMinPositive, kMaxFactor, 1.0);
}

}  // namespace

RopeScaling read_rope_scaling(const GgufFile& file, const std::string& arch, int32_t n_ctx_train) {
  const std::string prefix = arch + ".rope.scaling.";
  RopeScaling s;
  const std::string type = file.get_string(prefix + "type", "linear");
  if (type != "none" && type != "linear" && type != "yarn") {
    fail(ErrorCode::kUnsupported, "[language model] %s: key %stype is %s, supported are none, linear, yarn",
         quote_path(file.path()).c_str(), prefix.c_str(), quote_text(type).c_str());
  }
  if (type != "none") {
    const double legacy = file.get_float(arch + ".rope.scale_linear", kMinPositive, kMaxFactor, 1.0);
    s.factor = file.get_float(prefix + "factor", kMinPositive, kMaxFactor, legacy);
  }
  if (type == "yarn") read_yarn(file, prefix, n_ctx_train, s);
  s.magnitude *= file.get_float(prefix + "attn_factor", kMinPositive, kMaxFactor, 1.0);
  return s;
}

RopeFrequencies rope_frequencies(int32_t n_rot, double freq_base, const RopeScaling& scaling,
                                 const float* factors, const char* name) {
  if (scaling.yarn && freq_base <= 1.0) {
    fail(ErrorCode::kFormat, "[language model] rope.freq_base is %g, expected above 1 with yarn scaling",
         freq_base);
  }
  const int32_t n_pairs = n_rot / 2;
  double start = 0.0, end = 0.0;
  if (scaling.yarn) {
    // The pair that turns `beta` times over the original context.
    const auto pair_of = [&](double beta) {
      return n_rot * std::log(scaling.n_ctx_original / (2.0 * std::numbers::pi * beta)) /
             (2.0 * std::log(freq_base));
    };
    start = std::max(0.0, std::floor(pair_of(scaling.beta_fast)));
    end = std::min(n_rot - 1.0, std::ceil(pair_of(scaling.beta_slow)));
  }
  RopeFrequencies f;
  f.magnitude = scaling.magnitude;
  f.radians.resize(static_cast<size_t>(n_pairs));
  for (int32_t k = 0; k < n_pairs; ++k) {
    double original = std::pow(freq_base, -2.0 * k / n_rot);
    if (factors != nullptr) {
      if (!(factors[k] > 0.0f)) {
        fail(ErrorCode::kFormat, "[language model] %s: element %d is %g, expected above 0", name, k,
             static_cast<double>(factors[k]));
      }
      original /= static_cast<double>(factors[k]);
    }
    const double stretched = original / scaling.factor;
    double kept = 0.0;  // share of the original frequency
    if (scaling.yarn) {
      kept = scaling.ext_factor * (1.0 - std::clamp((k - start) / std::max(0.001, end - start), 0.0, 1.0));
    }
    f.radians[static_cast<size_t>(k)] = stretched * (1.0 - kept) + original * kept;
  }
  return f;
}

std::vector<int32_t> read_mrope_axes(const GgufFile& file, const std::string& arch, int32_t n_rot,
                                     MropeLayout layout) {
  const std::string key = arch + ".rope.dimension_sections";
  const std::vector<int64_t>* sections = file.find_ints(key);
  const int64_t n_pairs = n_rot / 2;
  // A fourth section would turn with a component that no released model has.
  int64_t sum = 0;
  bool good = sections != nullptr && sections->size() >= kMropeAxes;
  for (size_t i = 0; good && i < sections->size(); ++i) {
    const int64_t n = (*sections)[i];
    good = n >= 0 && n <= n_pairs && (i < kMropeAxes || n == 0);
    sum += n;
  }
  if (!good || sum != n_pairs) {
    std::string values;
    for (size_t i = 0; sections != nullptr && i < std::min<size_t>(sections->size(), 8); ++i) {
      values += (i == 0 ? "" : ", ") + std::to_string((*sections)[i]);
    }
    fail(ErrorCode::kFormat,
         "[language model] %s: key %s is [%s], expected pairs of t, h and w whose sum is %lld, then 0",
         quote_path(file.path()).c_str(), key.c_str(), values.c_str(), static_cast<long long>(n_pairs));
  }
  std::vector<int32_t> axes(static_cast<size_t>(n_pairs), 0);
  for (int64_t k = 0; k < n_pairs; ++k) {
    int32_t axis = 0;
    if (layout == MropeLayout::kContiguous) {
      axis = k < (*sections)[0] ? 0 : k < (*sections)[0] + (*sections)[1] ? 1 : 2;
    } else if (k < kMropeAxes * (*sections)[static_cast<size_t>(k % kMropeAxes)]) {
      axis = static_cast<int32_t>(k % kMropeAxes);
    }
    axes[static_cast<size_t>(k)] = axis;
  }
  return axes;
}

RopeTable::RopeTable(Backend& backend, const RopeFrequencies& frequencies,
                     std::span<const int32_t> positions) {
  const size_t n_pairs = frequencies.radians.size();
  const std::vector<int32_t>& axes = frequencies.axes;
  const size_t n_rows = positions.size() / (axes.empty() ? 1 : kMropeAxes);
  const size_t n = n_rows * n_pairs;
  values_.resize(2 * n);
  for (size_t t = 0; t < n_rows; ++t) {
    for (size_t k = 0; k < n_pairs; ++k) {
      const size_t axis = axes.empty() ? 0 : static_cast<size_t>(axes[k]);
      const double angle = positions[axis * n_rows + t] * frequencies.radians[k];
      values_[t * n_pairs + k] = static_cast<float>(std::cos(angle) * frequencies.magnitude);
      values_[n + t * n_pairs + k] = static_cast<float>(std::sin(angle) * frequencies.magnitude);
    }
  }
  const float* data = backend.upload(std::span<const float>(values_));
  const auto rows = static_cast<int64_t>(n_rows);
  const auto cols = static_cast<int64_t>(n_pairs);
  cos_ = {data, Dtype::kF32, rows, cols, row_bytes(Dtype::kF32, cols)};
  sin_ = {data + n, Dtype::kF32, rows, cols, row_bytes(Dtype::kF32, cols)};
}

}  // namespace trimtok
