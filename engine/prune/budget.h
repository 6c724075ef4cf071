// Budgets as pure functions of numbers (docs/pruning.md, "Budget", "Split and budgets per picture").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/prune/options.h"

namespace trimtok {

// B of kKeep, kMaxTokens and kFit. Throws kInvalidArgument when it cannot leave a row to every picture.
int64_t total_budget(const PruneOptions& options, int64_t n_total, int64_t n_nonempty);

// alpha, and B_1 in [budget, n_total].
double stage_split(double d_intra, double d_inter, int64_t n_pictures);
int64_t stage1_budget(int64_t budget, int64_t n_total, double alpha);

// clip(c weight_k, 1, size_k) with the c that makes them sum to `total`, then the largest remainders, ties to
// the lower picture. sizes: rows of each picture, 0 gets 0; weights > 0 where the size is;
// (number of non-empty pictures) <= total <= sum of sizes.
std::vector<int32_t> picture_budgets(std::span<const int32_t> sizes, std::span<const double> weights,
                                     int64_t total);

}  // namespace trimtok
