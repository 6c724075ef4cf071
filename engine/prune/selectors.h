// What every selector gets, and the list of them. Each fills report.kept (ascending per picture) and whatever
// else it has to report; each lives in a file of its own, trimtokenator_lc in stages.cc.
#pragma once

#include <chrono>
#include <vector>

#include "engine/prune/measures.h"
#include "engine/prune/report.h"
#include "engine/prune/scene.h"

namespace trimtok {

struct SelectorContext {
  Backend& backend;
  const RunControl& control;
  const Scene& scene;
  const Measures& measures;
  const PruneOptions& options;
  PruneReport& report;                         // budget is set
  std::vector<std::vector<int32_t>> covering;  // coverage only: the picks per picture that reach it
  std::vector<std::vector<float>>& pooled;  // grid_pool only: [kept, width of what is averaged] per picture
};

#define TT_SELECTOR(name, spelling) void select_##name(SelectorContext& context);
#include "engine/prune/selectors.def"
#undef TT_SELECTOR

// b_k in proportion to the pictures' sizes, at least 1 each: the budgets of random and uniform.
std::vector<int32_t> proportional_budgets(const SelectorContext& context);

// Adds the seconds of its life to the report, under a name.
class StageTimer {
 public:
  StageTimer(PruneReport& report, const char* stage)
      : report_(report), stage_(stage), start_(std::chrono::steady_clock::now()) {}
  ~StageTimer() {
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start_;
    report_.seconds.emplace_back(stage_, spent.count());
  }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  PruneReport& report_;
  const char* stage_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace trimtok
