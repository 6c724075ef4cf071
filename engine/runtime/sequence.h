// One sequence with a cache of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/core/run_control.h"
#include "engine/language/kv_cache.h"
#include "engine/runtime/model.h"

namespace trimtok {

// Rows of one sequence as the decoder takes them, before they are cut into batches.
struct SequenceRows {
  // [n, n_embd * (1 + n_extra)], or [n, n_embd]: no extra slices. In memory of the model's backend.
  ConstMatrix rows;
  std::vector<int32_t> positions;    // [n_pos, n]
  std::vector<int32_t> visible_end;  // [n], sequence indices
  // One more than the furthest position that an answer may reach; 0: what the rows reach. Counts in the first
  // prefill of a sequence.
  int32_t n_positions = 0;
};

// One sequence with a cache of its own: prefill rows, read logits, append tokens.
class Sequence {
 public:
  explicit Sequence(std::shared_ptr<Model> model);
  // Appends rows in batches of at most `chunk` rows (a bidirectional picture is never cut) and writes the
  // logits of the last logits.rows rows (memory of the host).
  void prefill(const SequenceRows& rows, int64_t chunk, const Matrix& logits, const RunControl& control);
  // Appends one token at position `position` (all components) and writes its logits [n_vocab].
  void append(int32_t id, int32_t position, std::span<float> logits, const RunControl& control);
  int64_t length() const { return cache_.length(); }
  size_t kv_bytes() const { return cache_.bytes(); }
  void reserve(int64_t n_rows) { cache_.reserve(n_rows); }

 private:
  std::shared_ptr<Model> model_;
  KvCache cache_;
  int32_t n_positions_ = 0;         // see RowBatch
  std::optional<StepGraph> steps_;  // none: every op of a step runs when it is asked for
};

}  // namespace trimtok
