#include "engine/prune/options.h"

#include <cmath>
#include <iterator>

#include "engine/core/error.h"

namespace trimtok {
namespace {

constexpr const char* kSelectorNames[] = {
#define TT_SELECTOR(name, spelling) spelling,
#include "engine/prune/selectors.def"
#undef TT_SELECTOR
};
constexpr const char* kBudgetNames[] = {"keep", "max_tokens", "coverage", "fit"};
constexpr const char* kRuleNames[] = {"max_sum", "max_min", "facility"};
constexpr const char* kInterNames[] = {"centroid", "sequence", "token"};
constexpr const char* kAgreementNames[] = {"cosine", "l2"};

template <typename Enum, size_t n>
Enum from_name(const char* setting, const std::string& name, const char* const (&names)[n]) {
  std::string allowed;
  for (size_t i = 0; i < n; ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
    allowed += (i == 0 ? "\"" : ", \"") + std::string(names[i]) + "\"";
  }
  fail(ErrorCode::kInvalidArgument, "[pruning] %s is \"%.40s\", must be one of %s", setting, name.c_str(),
       allowed.c_str());
}

}  // namespace

void validate(const PruneOptions& o) {
  const auto refuse = [](const char* name, double value, const char* range) {
    fail(ErrorCode::kInvalidArgument, "[pruning] %s is %g, must be %s", name, value, range);
  };
  // So written that NaN is refused.
  if (o.budget == BudgetKind::kKeep && !(o.keep > 0.0 && o.keep <= 1.0)) {
    refuse("keep", o.keep, "in (0, 1], the share of visual tokens that stays");
  }
  if (o.budget == BudgetKind::kCoverage && !(o.coverage > 0.0 && o.coverage < 1.0)) {
    refuse("coverage", o.coverage, "in (0, 1), the cosine that every dropped token has to a kept one");
  }
  if (o.budget == BudgetKind::kMaxTokens && o.max_tokens < 1) {
    refuse("max_tokens", static_cast<double>(o.max_tokens), "at least 1");
  }
  if (o.alpha && !(*o.alpha >= 0.0 && *o.alpha <= 1.0)) {
    refuse("alpha", *o.alpha, "in [0, 1]: 0 leaves all to stage 2, 1 all to stage 1");
  }
  if (!(o.pool >= 1.0) || !std::isfinite(o.pool)) refuse("pool", o.pool, "a finite number of at least 1");
  if (!(o.pareto_weight >= 0.0 && o.pareto_weight <= 1.0)) {
    refuse("pareto_weight", o.pareto_weight, "in [0, 1]: 0 is agreement alone, 1 diversity alone");
  }
  if (!(o.inter_weight >= 0.0 && o.inter_weight <= 1.0)) {
    refuse("inter_weight", o.inter_weight, "in [0, 1]: 1 is blind to the borders of pictures");
  }
}

const char* selector_name(Selector selector) {
  return kSelectorNames[static_cast<size_t>(selector)];
}
const char* budget_name(BudgetKind kind) {
  return kBudgetNames[static_cast<size_t>(kind)];
}
const char* rule_name(GreedyRule rule) {
  return kRuleNames[static_cast<size_t>(rule)];
}
const char* inter_name(InterMeasure measure) {
  return kInterNames[static_cast<size_t>(measure)];
}
const char* agreement_name(Agreement agreement) {
  return kAgreementNames[static_cast<size_t>(agreement)];
}
Selector selector_from(const std::string& name) {
  return from_name<Selector>("selector", name, kSelectorNames);
}
GreedyRule rule_from(const std::string& name) {
  return from_name<GreedyRule>("stage1", name, kRuleNames);
}
InterMeasure inter_from(const std::string& name) {
  return from_name<InterMeasure>("d_inter", name, kInterNames);
}
Agreement agreement_from(const std::string& name) {
  return from_name<Agreement>("align", name, kAgreementNames);
}

}  // namespace trimtok
