// Comparing what greedy_pick picks, for the files that hold its rules to the reference.
#pragma once

#include <algorithm>

#include "harness.h"

namespace trimtok::parity {

// Picks, and the scores by which they were picked, exactly. Picking::args(out, scores) is a call with fresh
// state; `width`: of both outputs.
template <typename Picking>
void compare_picks(Suite& s, Picking& picking, int64_t width) {
  const auto n_problems = static_cast<int64_t>(picking.problems.size());
  const Tensor picks(Dtype::kI32, n_problems, width, s.next_layout());
  const Tensor scores(Dtype::kF32, n_problems, width, s.next_layout());
  for (int64_t b = 0; b < n_problems; ++b) std::fill_n(scores.f32(b), width, 0.0f);
  const Tensor other_picks = picks.clone();
  const Tensor other_scores = scores.clone();
  s.compare<GreedyPickArgs>(
      &KernelTable::greedy_pick, picks,
      [&](const Matrix& m) { return picking.args(m, other_scores.matrix()); }, exact);
  s.compare<GreedyPickArgs>(
      &KernelTable::greedy_pick, scores,
      [&](const Matrix& m) { return picking.args(other_picks.matrix(), m); }, exact);
}

}  // namespace trimtok::parity
