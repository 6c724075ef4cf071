// The two stages of trimtokenator-lc (docs/pruning.md, "Stage 1", "Stage 2").
#pragma once

#include <span>
#include <vector>

#include "engine/prune/report.h"
#include "engine/prune/scene.h"

namespace trimtok {

// Stage 1: counts[k] picks inside each picture, in pick order. With a stop_at (a cosine; max_min only) a
// picture may stop earlier, see GreedyProblem.
std::vector<std::vector<int32_t>> pick_inside_pictures(Backend& backend, const RunControl& control,
                                                       const Scene& scene, std::span<const int32_t> counts,
                                                       GreedyRule rule, float stop_at = 3.4e38f);

// Stage 2: `budget` of the rows `candidates` (indices among all rows, ascending, at least one of every
// non-empty picture), ascending. Sets pool_size and times in the report.
std::vector<int32_t> select_across_pictures(Backend& backend, const RunControl& control, const Scene& scene,
                                            const std::vector<int32_t>& candidates, int64_t budget,
                                            const PruneOptions& options, PruneReport& report);

}  // namespace trimtok
