// What the pruner did, as measured while it did it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/prune/options.h"

namespace trimtok {

struct PruneReport {
  PruneOptions settings;
  std::vector<int32_t> n_rows;             // m_k
  std::vector<int32_t> budgets;            // b_k; where the selector has no budget per picture: rows kept
  std::vector<std::vector<int32_t>> kept;  // per picture, ascending
  std::vector<double> d_intra;             // per picture; empty when nothing was measured
  std::optional<double> d_intra_mean;      // over the non-empty pictures
  std::optional<double> d_inter;
  std::optional<double> alpha;                          // the rest: what only some selectors have
  std::optional<int64_t> stage1_budget;                 // B_1
  std::optional<int64_t> pool_size;                     // |P|
  int64_t n_total = 0;                                  // N
  int64_t budget = 0;                                   // B
  std::vector<std::pair<std::string, double>> seconds;  // of each stage, in order
  std::string reason;                                   // why nothing was removed; empty when pruning ran
};

}  // namespace trimtok
