// DivPrune (Alvar et al., CVPR 2025): max-min diversity over all rows.
#include <algorithm>
#include <limits>

#include "engine/prune/greedy.h"
#include "engine/prune/selectors.h"

namespace trimtok {
namespace {

constexpr int64_t kBlock = 256;

// Cosine of each row with its nearest other row.
std::vector<float> nearest_other(Backend& backend, const RunControl& control, const ConstMatrix& y,
                                 const GramRows& gram) {
  const int64_t n = y.rows;
  std::vector<float> nearest(static_cast<size_t>(n), -std::numeric_limits<float>::infinity());
  const Arena::Mark mark(backend.arena());
  const Matrix block = gram.whole() ? Matrix{} : backend.arena().matrix(kBlock, n);
  Buffer copy;
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t rows = std::min(kBlock, n - first);
    Matrix out = block;
    if (!gram.whole()) {  // only the columns from `first` on: the rest is the transpose of earlier blocks
      out.rows = rows;
      block_gram(backend, control, row_range(y, first, rows), row_range(y, first, n - first), out);
    }
    const ConstMatrix part = gram.whole() ? row_range(gram.matrix(), first, rows) : out;
    const ConstMatrix host = backend.read(part, copy);
    for (int64_t r = 0; r < rows; ++r) {
      const float* g = row_of(host, r) + (gram.whole() ? first : 0);
      float own = nearest[static_cast<size_t>(first + r)];
      for (int64_t c = r + 1; c < n - first; ++c) {
        own = std::max(own, g[c]);
        float& other = nearest[static_cast<size_t>(first + c)];
        other = std::max(other, g[c]);
      }
      nearest[static_cast<size_t>(first + r)] = own;
    }
    control.step("prune", first, n);
  }
  return nearest;
}

}  // namespace

void select_divprune(SelectorContext& c) {
  const StageTimer timer(c.report, "select");
  const Scene& scene = c.scene;
  const Arena::Mark mark(c.backend.arena());
  GreedySet set(c.backend, c.control, scene.unit, GreedyRule::kMaxMin);
  const std::vector<float> nearest = nearest_other(c.backend, c.control, scene.unit, set.gram());
  const auto first = std::min_element(nearest.begin(), nearest.end()) - nearest.begin();
  set.pick(c.report.budget, static_cast<int32_t>(first));
  c.report.kept = split_by_picture(scene, picks_with_floor(scene, set));
}

}  // namespace trimtok
