// Between tower and prefill: runs the pruner on encoded pictures and shortens the sequence accordingly.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/core/run_control.h"
#include "engine/prune/prune.h"
#include "engine/runtime/model.h"
#include "engine/runtime/remap.h"

namespace trimtok {

enum class PositionChoice { kAuto, kOriginal, kCompact };

struct PruneRequest {
  PruneOptions options;
  PositionChoice positions = PositionChoice::kAuto;
  int64_t kv_memory_bytes = 0;  // kFit only: limit of the cache; 0 is none
  std::string text;             // the user's words, without template and markers: what rows agree with
};

struct PrunedSequence {
  SequencePlan plan;
  PruneResult result;
  PositionPolicy positions = PositionPolicy::kOriginal;
};

// Bytes of cache that one row of a sequence takes.
int64_t kv_bytes_per_row(const Model& model);

// Picture rows that fit beside the text of `plan` and an answer of max_tokens; may be negative.
int64_t room_for_picture_rows(const Model& model, const SequencePlan& plan, int64_t max_tokens,
                              int64_t kv_memory_bytes);

// Rows of the pruned sequence, or the fewest that it can have where the budget depends on what pictures show.
int64_t rows_after_pruning(const SequencePlan& plan, const std::vector<ImagePlan>& plans,
                           const PruneRequest& request);

// plans[k] and picture_rows[k] belong to picture k. Throws what prune() throws.
PrunedSequence prune_sequence(Model& model, const SequencePlan& plan, const std::vector<ImagePlan>& plans,
                              const std::vector<ConstMatrix>& picture_rows, const PruneRequest& request,
                              int64_t max_tokens, const RunControl& control);

}  // namespace trimtok
