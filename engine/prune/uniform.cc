#include "engine/prune/selectors.h"

namespace trimtok {

void select_uniform(SelectorContext& c) {
  const StageTimer timer(c.report, "select");
  c.report.budgets = proportional_budgets(c);
  for (size_t k = 0; k < c.scene.sizes.size(); ++k) {
    const int64_t m = c.scene.sizes[k];
    const int64_t b = c.report.budgets[k];
    std::vector<int32_t> rows;
    for (int64_t i = 0; i < b; ++i) rows.push_back(static_cast<int32_t>((2 * i + 1) * m / (2 * b)));
    c.report.kept.push_back(std::move(rows));
  }
}

}  // namespace trimtok
