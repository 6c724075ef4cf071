// What pruning drags along: from kept rows to a shorter sequence. Pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/runtime/prompt.h"

namespace trimtok {

enum class PositionPolicy {
  kOriginal,  // a kept row keeps the position that it has without pruning, so does the text after it
  // Positions are consecutive. M-RoPE: kept rows keep their place inside their picture, and what follows goes
  // on after the largest component that is left.
  kCompact,
};

// Sequence indices of `plan` that stay when picture k keeps its rows kept[k] (ascending), in order.
std::vector<int64_t> kept_indices(const SequencePlan& plan, std::span<const std::vector<int32_t>> kept);

// The plan of the shorter sequence. Segments become runs of kept rows; a row that saw up to a row that is
// gone sees up to the last one before it that stays, so rows of a bidirectional picture still see each other.
SequencePlan keep_rows(const SequencePlan& plan, std::span<const int64_t> indices, PositionPolicy policy);

}  // namespace trimtok
