// CDPruner (Zhang et al., NeurIPS 2025): greedy MAP of a determinantal point process whose kernel is the Gram
// matrix scaled by relevance.
#include <algorithm>

#include "engine/prune/agreement.h"
#include "engine/prune/greedy.h"
#include "engine/prune/selectors.h"

namespace trimtok {
namespace {

// Rows of zeros get 0: they add nothing to a determinant.
std::vector<float> relevance_scale(const SelectorContext& c) {
  const std::vector<double> rel = relevance(c.backend, c.scene.input->text, c.scene.unit);
  const auto [low, high] = std::minmax_element(rel.begin(), rel.end());
  std::vector<float> scale;
  for (size_t i = 0; i < rel.size(); ++i) {
    const double r = *low == *high ? 1.0 : (rel[i] - *low + 1e-6) / (*high - *low);
    scale.push_back(c.scene.norms[i] > 0.0f ? static_cast<float>(r) : 0.0f);
  }
  return scale;
}

}  // namespace

void select_cdpruner(SelectorContext& c) {
  const StageTimer timer(c.report, "select");
  const Arena::Mark mark(c.backend.arena());
  GreedySet set(c.backend, c.control, c.scene.unit, relevance_scale(c), c.report.budget);
  set.pick(c.report.budget);
  c.report.kept = split_by_picture(c.scene, picks_with_floor(c.scene, set));
}

}  // namespace trimtok
