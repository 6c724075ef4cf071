// One greedy selection over any number of unit rows (docs/pruning.md, "Greedy objectives").
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/prune/gram_rows.h"

namespace trimtok {

class GreedySet {
 public:
  // As for GramRows.
  GreedySet(Backend& backend, const RunControl& control, const ConstMatrix& y, GreedyRule rule,
            const Pictures& pictures = {}, int64_t max_whole = GramRows::kMaxWhole);

  // kDeterminant with this scale (see GreedyProblem), for at most `most` picks.
  GreedySet(Backend& backend, const RunControl& control, const ConstMatrix& y, std::vector<float> scale,
            int64_t most);

  // Picks until there are `count`, or until `stop_at` is reached (see GreedyProblem). first < 0: by the rule.
  void pick(int64_t count, int32_t first = -1, float stop_at = 3.4e38f);
  const std::vector<int32_t>& picks() const { return picks_; }
  // The one among these unpicked rows that the rule would pick next; ties to the earlier one.
  int32_t next_among(std::span<const int32_t> candidates);
  GramRows& gram() { return gram_; }

 private:
  bool stopped(float stop_at) const;
  int32_t next_stop(int32_t done, int64_t count) const;
  void load_missing(int32_t first);
  double gain(int32_t i, const float* best);
  void read_gains();
  int32_t best_by_determinant(std::span<const int32_t> rows) const;

  Backend& backend_;
  const RunControl& control_;
  GreedyRule rule_;
  Matrix state_;
  GramRows gram_;
  std::vector<float> total_;
  // kDeterminant only.
  std::vector<float> scale_;
  std::vector<double> gains_;  // as read_gains() has found them in gain_, and nearest_ in row 0 of state_
  double* gain_ = nullptr;
  const float* nearest_ = nullptr;
  Buffer nearest_copy_;
  std::vector<int32_t> picks_;
};

// For selections without borders: a picture without a pick gets `next(k)`, in exchange for the latest pick of
// a picture that has more than one. picture[i]: of row i, in [0, n_pictures); `next` is asked in picture
// order and returns a row of k. Given rows come last.
void give_floor(std::span<const int32_t> picture, int64_t n_pictures, std::vector<int32_t>& picks,
                const std::function<int32_t(int32_t)>& next);

// The picks of a set over all rows of a scene, with floor.
std::vector<int32_t> picks_with_floor(const Scene& scene, GreedySet& set);

}  // namespace trimtok
