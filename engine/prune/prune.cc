#include "engine/prune/prune.h"

#include <algorithm>
#include <numeric>

#include "engine/prune/budget.h"
#include "engine/prune/measures.h"
#include "engine/prune/selectors.h"
#include "engine/prune/stages.h"

namespace trimtok {
namespace {

void keep_everything(const Scene& scene, PruneReport& report, std::string reason) {
  report.reason = std::move(reason);
  report.budget = scene.n_rows;
  report.budgets = scene.sizes;
  report.kept.clear();
  for (const int32_t m : scene.sizes) {
    report.kept.emplace_back(static_cast<size_t>(m));
    std::iota(report.kept.back().begin(), report.kept.back().end(), 0);
  }
}

void select(Selector selector, SelectorContext& context) {
  switch (selector) {
#define TT_SELECTOR(name, spelling) \
  case Selector::k_##name:          \
    return select_##name(context);
#include "engine/prune/selectors.def"
#undef TT_SELECTOR
  }
}

// The smallest sets that leave every dropped row a kept one at least this similar.
std::vector<std::vector<int32_t>> cover(Backend& backend, const RunControl& control, const Scene& scene,
                                        double coverage) {
  return pick_inside_pictures(backend, control, scene, scene.sizes, GreedyRule::kMaxMin,
                              static_cast<float>(coverage));
}

}  // namespace

void select_none(SelectorContext& context) {
  keep_everything(context.scene, context.report, "the selector is none");
}

PruneResult prune(Backend& backend, const PruneInput& input, const PruneOptions& options,
                  const RunControl& control) {
  validate(options);
  PruneResult result;
  PruneReport& report = result.report;
  report.settings = options;
  Scene scene = describe(backend, input);
  result.width = scene.width;
  report.n_rows = scene.sizes;
  report.n_total = scene.n_rows;
  if (scene.n_rows == 0) {
    keep_everything(scene, report, "there are no visual tokens");
    return result;
  }
  if (options.budget == BudgetKind::kKeep && options.keep == 1.0) {
    check_finite(backend, input);
    keep_everything(scene, report, "keep is 1");
    return result;
  }
  const bool covers = options.budget == BudgetKind::kCoverage;
  const bool none = options.selector == Selector::k_none;
  if (!covers) report.budget = total_budget(options, scene.n_rows, scene.n_nonempty);

  const Arena::Mark mark(backend.arena());
  Measures measures;
  {
    const StageTimer timer(report, "measure");
    prepare(backend, control, scene);
    measures = measure(backend, scene, options.d_inter);
    report.d_intra = measures.d_intra;
    report.d_intra_mean = measures.d_intra_mean;
    report.d_inter = measures.d_inter;
  }
  SelectorContext context{backend, control, scene, measures, options, report, {}, result.pooled};
  if (covers && !none) {
    const StageTimer timer(report, "stage1");
    context.covering = cover(backend, control, scene, options.coverage);
    for (std::vector<int32_t>& list : context.covering) {
      std::sort(list.begin(), list.end());
      report.budget += static_cast<int64_t>(list.size());
    }
  }
  if (!none && report.budget == scene.n_rows) {
    keep_everything(scene, report, "the budget covers every visual token");
    return result;
  }
  select(options.selector, context);
  if (report.budgets.empty()) {
    for (const std::vector<int32_t>& list : report.kept)
      report.budgets.push_back(static_cast<int32_t>(list.size()));
  }
  return result;
}

}  // namespace trimtok
