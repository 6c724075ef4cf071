// Pareto ranking of rows by two objectives, both to be maximised (docs/pruning.md, "Stage 2", 4 and 5).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trimtok {

// front[i] = 0 for rows that no other dominates, 1 for those dominated by front 0 alone, ...  O(p log p).
std::vector<int32_t> pareto_fronts(std::span<const double> div, std::span<const double> align);

// All rows from best to worst: (front, weight * div + (1 - weight) * align descending, index), both
// objectives min-max normalised, a constant one counting as 0.
std::vector<int32_t> pareto_order(std::span<const double> div, std::span<const double> align, double weight);

// The first `count` of `order`, after every picture without one among them got its best row in exchange for
// the worst of a picture that has more than one. picture[i]: of row i, in [0, n_pictures). Ascending.
std::vector<int32_t> take_with_floor(std::span<const int32_t> order, std::span<const int32_t> picture,
                                     int64_t n_pictures, int64_t count);

}  // namespace trimtok
