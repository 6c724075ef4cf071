// CDPruner (Zhang et al., NeurIPS 2025): greedy MAP of a determinantal point process whose kernel is the Gram
// matrix scaled by relevance. Fast greedy of Chen et al. 2018: one column of the Cholesky factor per pick.
#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/prune/agreement.h"
#include "engine/prune/greedy.h"
#include "engine/prune/selectors.h"

namespace trimtok {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
// What is left of a determinant's gain below these is nothing: the limit of the method, and, relative to the
// kernel's diagonal, the noise of float32 cosines.
constexpr double kExhausted = 1e-8;
constexpr double kNoise = 1e-5;

class DppPicker {
 public:
  DppPicker(SelectorContext& c, int64_t count)
      : c_(c), gram_(c.backend, c.control, c.scene.unit), count_(count) {
    factor_ = c.backend.arena().matrix(c.scene.n_rows, count);
    const std::vector<double> rel = relevance(c.backend, c.scene.input->text, c.scene.unit);
    const auto [low, high] = std::minmax_element(rel.begin(), rel.end());
    for (size_t i = 0; i < rel.size(); ++i) {
      const double r = *low == *high ? 1.0 : (rel[i] - *low + 1e-6) / (*high - *low);
      scale_.push_back(static_cast<float>(r));
      gain_.push_back(c.scene.norms[i] > 0.0f ? spent_to_zero(i, r * r) : 0.0);
      nearest_.push_back(-kInf);
    }
  }

  std::vector<int32_t> run() {
    while (static_cast<int64_t>(picks_.size()) < count_) {
      const auto t = static_cast<int64_t>(picks_.size());
      c_.control.step("prune", t, count_);
      std::vector<int32_t> all(gain_.size());
      for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
      take(best_of(all), t);
    }
    return picks_;
  }

  // By determinant while one is left, then by distance; picked rows never win.
  int32_t best_of(std::span<const int32_t> rows) const {
    const auto at = [](const auto& v, int32_t i) { return v[static_cast<size_t>(i)]; };
    const int32_t best = *std::max_element(rows.begin(), rows.end(),
                                           [&](int32_t a, int32_t b) { return at(gain_, a) < at(gain_, b); });
    if (at(gain_, best) > 0.0) return best;
    return *std::min_element(rows.begin(), rows.end(),
                             [&](int32_t a, int32_t b) { return at(nearest_, a) < at(nearest_, b); });
  }

 private:
  double spent_to_zero(size_t i, double gain) const {
    const double diagonal = static_cast<double>(scale_[i]) * scale_[i];
    return gain > std::max(kExhausted, kNoise * diagonal) ? gain : 0.0;
  }

  void take(int32_t pick, int64_t t) {
    const auto j = static_cast<size_t>(pick);
    if (!gram_.has(pick)) {
      std::vector<float> worth(gain_.size());
      for (size_t i = 0; i < worth.size(); ++i) {
        worth[i] = gain_[j] > 0.0 ? static_cast<float>(gain_[i]) : -nearest_[i];
      }
      gram_.load(pick, worth);
    }
    const float* g = gram_.row(pick);
    picks_.push_back(pick);
    if (gain_[j] > 0.0) add_column(pick, t, g);
    gain_[j] = -static_cast<double>(kInf);
    nearest_[j] = kInf;
    for (size_t i = 0; i < nearest_.size(); ++i) nearest_[i] = std::max(nearest_[i], g[i]);
  }

  void add_column(int32_t pick, int64_t t, const float* g) {
    const auto j = static_cast<size_t>(pick);
    const auto root = static_cast<float>(std::sqrt(gain_[j]));
    std::vector<float> dots(gain_.size(), 0.0f);
    if (t > 0) {
      ConstMatrix done = factor_;
      done.cols = t;
      dots = project(c_.backend, done, row_range(done, pick, 1));
    }
    std::vector<float> column(gain_.size());
    for (size_t i = 0; i < gain_.size(); ++i) {
      const float e = (scale_[i] * scale_[j] * g[i] - dots[i]) / root;
      column[i] = e;
      if (gain_[i] > 0.0) gain_[i] = spent_to_zero(i, gain_[i] - static_cast<double>(e) * e);
    }
    const Arena::Mark mark(c_.backend.arena());
    const auto n = static_cast<int64_t>(column.size());
    const Matrix place = {static_cast<float*>(factor_.data) + t, Dtype::kF32, n, 1, factor_.stride};
    const float* values = c_.backend.upload(std::span<const float>(column));
    c_.backend.convert_rows({place, {values, Dtype::kF32, n, 1, sizeof(float)}}, "pruning");
  }

  SelectorContext& c_;
  GramRows gram_;
  int64_t count_;
  Matrix factor_;  // [N, count]
  std::vector<float> scale_;
  std::vector<double> gain_;    // d2; 0 when exhausted, -infinity when picked
  std::vector<float> nearest_;  // cosine to the nearest pick, +infinity when picked
  std::vector<int32_t> picks_;
};

}  // namespace

void select_cdpruner(SelectorContext& c) {
  const StageTimer timer(c.report, "select");
  const Arena::Mark mark(c.backend.arena());
  DppPicker picker(c, c.report.budget);
  std::vector<int32_t> picks = picker.run();
  give_floor(c.scene.picture, c.scene.n_pictures, picks, [&](int32_t k) {
    std::vector<int32_t> own;
    for (int32_t i = c.scene.begin[static_cast<size_t>(k)]; i < c.scene.begin[static_cast<size_t>(k) + 1];
         ++i) {
      own.push_back(i);
    }
    return picker.best_of(own);
  });
  c.report.kept = split_by_picture(c.scene, picks);
}

}  // namespace trimtok
