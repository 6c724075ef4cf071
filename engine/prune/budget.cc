#include "engine/prune/budget.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/error.h"

namespace trimtok {
namespace {

// Halves to even, whatever the floating-point environment.
int64_t round_even(double x) {
  const double low = std::floor(x);
  const double part = x - low;
  const auto whole = static_cast<int64_t>(low);
  if (part != 0.5) return part < 0.5 ? whole : whole + 1;
  return whole % 2 == 0 ? whole : whole + 1;
}

// The c with sum clip(c w, 1, m) = total: between two neighbouring break points the sum is linear in c.
double water_level(std::span<const int32_t> sizes, std::span<const double> weights, double total) {
  std::vector<double> breaks;
  for (size_t k = 0; k < sizes.size(); ++k) {
    if (sizes[k] == 0) continue;
    breaks.push_back(1.0 / weights[k]);
    breaks.push_back(sizes[k] / weights[k]);
  }
  std::sort(breaks.begin(), breaks.end());
  const auto sum_at = [&](double c) {
    double sum = 0.0;
    for (size_t k = 0; k < sizes.size(); ++k) {
      if (sizes[k] > 0) sum += std::clamp(c * weights[k], 1.0, static_cast<double>(sizes[k]));
    }
    return sum;
  };
  // The first break point whose sum reaches the total ends the segment.
  const auto end =
      std::partition_point(breaks.begin(), breaks.end(), [&](double c) { return sum_at(c) < total; });
  if (end == breaks.begin()) return breaks.front();
  const double low = *(end - 1);
  double fixed = 0.0;
  double slope = 0.0;
  for (size_t k = 0; k < sizes.size(); ++k) {
    if (sizes[k] == 0) continue;
    if (1.0 / weights[k] > low) {
      fixed += 1.0;
    } else if (sizes[k] / weights[k] <= low) {
      fixed += sizes[k];
    } else {
      slope += weights[k];
    }
  }
  return slope > 0.0 ? (total - fixed) / slope : low;
}

}  // namespace

int64_t total_budget(const PruneOptions& options, int64_t n_total, int64_t n_nonempty) {
  if (options.budget == BudgetKind::kKeep) {
    return std::max(n_nonempty, round_even(options.keep * static_cast<double>(n_total)));
  }
  const int64_t budget = std::min(n_total, options.max_tokens);
  if (budget >= n_nonempty) return budget;
  if (options.budget == BudgetKind::kFit) {
    fail(ErrorCode::kContextOverflow,
         "[pruning] fit leaves room for %lld visual tokens, %lld pictures need at least one each; use fewer "
         "pictures or a larger context",
         static_cast<long long>(std::max<int64_t>(budget, 0)), static_cast<long long>(n_nonempty));
  }
  fail(ErrorCode::kInvalidArgument,
       "[pruning] max_tokens is %lld, must be at least %lld: every picture keeps one token",
       static_cast<long long>(options.max_tokens), static_cast<long long>(n_nonempty));
}

double stage_split(double d_intra, double d_inter, int64_t n_pictures) {
  const double sum = d_intra + d_inter;
  if (n_pictures < 2 || !(sum > 0.0)) return 0.5;
  return std::clamp(d_inter / sum, 0.2, 0.8);
}

int64_t stage1_budget(int64_t budget, int64_t n_total, double alpha) {
  const double rho = static_cast<double>(budget) / static_cast<double>(n_total);
  return std::clamp(round_even(static_cast<double>(n_total) * std::pow(rho, alpha)), budget, n_total);
}

std::vector<int32_t> picture_budgets(std::span<const int32_t> sizes, std::span<const double> weights,
                                     int64_t total) {
  const double level = water_level(sizes, weights, static_cast<double>(total));
  std::vector<int32_t> budgets(sizes.size(), 0);
  std::vector<double> parts(sizes.size(), -1.0);
  int64_t rest = total;
  for (size_t k = 0; k < sizes.size(); ++k) {
    if (sizes[k] == 0) continue;
    const double real = std::clamp(level * weights[k], 1.0, static_cast<double>(sizes[k]));
    budgets[k] = static_cast<int32_t>(std::floor(real));
    parts[k] = real - budgets[k];
    rest -= budgets[k];
  }
  std::vector<size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return parts[a] > parts[b]; });
  // One round is enough but for rounding of `level`, hence the loops; the contract bounds both.
  while (rest > 0) {
    for (const size_t k : order) {
      if (rest > 0 && budgets[k] < sizes[k]) {
        ++budgets[k];
        --rest;
      }
    }
  }
  while (rest < 0) {
    for (auto k = order.rbegin(); k != order.rend(); ++k) {
      if (rest < 0 && budgets[*k] > 1) {
        --budgets[*k];
        ++rest;
      }
    }
  }
  return budgets;
}

}  // namespace trimtok
