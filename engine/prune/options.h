// What a caller may ask of the pruner; meanings and formulas are in docs/pruning.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "trimtok/args.h"

namespace trimtok {

enum class Selector : int32_t {
#define TT_SELECTOR(name, spelling) k_##name,
#include "engine/prune/selectors.def"
#undef TT_SELECTOR
};

enum class BudgetKind : int32_t {
  kKeep,       // share of all rows, in (0, 1]
  kMaxTokens,  // number of rows
  kCoverage,   // cosine, in (0, 1)
  kFit,        // number of rows that the runtime found room for
};

enum class InterMeasure : int32_t { kCentroid, kSequence, kToken };
enum class Agreement : int32_t { kCosine, kL2 };

struct PruneOptions {
  BudgetKind budget = BudgetKind::kKeep;
  double keep = 1.0;
  double coverage = 0.0;
  int64_t max_tokens = 0;  // kMaxTokens and kFit
  Selector selector = Selector::k_trimtokenator_lc;
  GreedyRule stage1 = GreedyRule::kMaxMin;
  InterMeasure d_inter = InterMeasure::kCentroid;
  Agreement align = Agreement::kCosine;
  std::optional<double> alpha;  // split of the budget between the stages; none: by the measures
  double pool = 1.5;            // kappa
  double pareto_weight = 0.5;
  double inter_weight = 1.0;  // of a cosine between rows of different pictures, in stage 2
  uint64_t seed = 0;
};

// Throws kInvalidArgument naming the setting, its value and the allowed range.
void validate(const PruneOptions& options);

// Spellings of the settings; the *_from functions throw kInvalidArgument naming what is allowed.
const char* selector_name(Selector selector);
const char* budget_name(BudgetKind kind);
const char* rule_name(GreedyRule rule);
const char* inter_name(InterMeasure measure);
const char* agreement_name(Agreement agreement);
Selector selector_from(const std::string& name);
GreedyRule rule_from(const std::string& name);
InterMeasure inter_from(const std::string& name);
Agreement agreement_from(const std::string& name);

}  // namespace trimtok
