// The pruner: plain functions from rows to indices. It knows neither tower nor language model.
#pragma once

#include <vector>

#include "engine/prune/report.h"
#include "engine/prune/scene.h"

namespace trimtok {

struct PruneResult {
  PruneReport report;
  // grid_pool only, else empty: what replaces the kept rows, f32 [kept, d] per picture.
  std::vector<std::vector<float>> pooled;
  int64_t width = 0;  // d
};

// Chooses the rows that stay; docs/pruning.md is the contract. keep = 1 looks at no row but for its numbers.
// Polls control.step("prune", ...) every few ten milliseconds. Throws kInvalidArgument (settings, shapes, a
// budget that is too small), kContextOverflow (fit without room), kNumerics (a row that is not finite),
// kOutOfMemory, kCancelled.
PruneResult prune(Backend& backend, const PruneInput& input, const PruneOptions& options,
                  const RunControl& control);

}  // namespace trimtok
