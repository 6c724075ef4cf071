// Rows of the Gram matrix of many unit rows, as many as are needed: the whole matrix up to kMaxWhole rows,
// beyond that pages of rows, computed together when one is missing and overwritten in turn.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/prune/scene.h"

namespace trimtok {

// Rows of several pictures, one picture after the other. A cosine with a row of another picture counts
// `inter_weight` times (docs/pruning.md, "Stage 2").
struct Pictures {
  std::span<const int32_t> of_row;  // [n], ascending; empty: borders play no part
  float inter_weight = 1.0f;

  // One picture has nothing to weigh.
  bool weighted() const { return inter_weight != 1.0f && !of_row.empty() && of_row.front() != of_row.back(); }
};

class GramRows {
 public:
  static constexpr int64_t kMaxWhole = 8192;  // 256 MiB, also the limit of the pages
  // The same for twenty pictures of 576 rows, 576 MiB, on a device with twice as much to spare: its picks
  // then never wait for the host.
  static constexpr int64_t kMaxWholeOnDevice = 12288;
  static int64_t max_whole(const Backend& backend);

  // y: [n, d] must outlive this; memory comes from the backend's arena, so a Mark must be set by the caller.
  GramRows(Backend& backend, const RunControl& control, const ConstMatrix& y, const Pictures& pictures = {},
           int64_t max_whole = kMaxWhole);

  bool whole() const { return slots_.empty(); }
  const Matrix& matrix() const { return matrix_; }
  std::span<const int32_t> slots() const { return slots_; }  // empty when whole
  bool has(int64_t i) const { return slot(i) >= 0; }
  // Row i, which is there, for the host to read; valid until the next row() or load().
  const float* row(int64_t i);
  // Makes row `wanted` present, and with it those of largest worth (-infinity: never) that are not.
  void load(int32_t wanted, std::span<const float> worth);

 private:
  int64_t slot(int64_t i) const { return whole() ? i : slots_[static_cast<size_t>(i)]; }

  Backend& backend_;
  const RunControl& control_;
  ConstMatrix y_;
  Pictures pictures_;
  Matrix matrix_;               // [n, n], or [pages * kPage, n]
  std::vector<int32_t> slots_;  // row of matrix_ per row of y; empty when whole
  std::vector<int32_t> owner_;  // row of y per row of matrix_, -1: none
  Matrix gathered_;
  Buffer row_;
  int64_t next_page_ = 0;
};

// out = y y^T, in pieces short enough to cancel between.
void whole_gram(Backend& backend, const RunControl& control, const ConstMatrix& y, const Matrix& out);
// out[i] = sum of weighted similarities of row i to all rows, itself included.
std::vector<float> similarity_totals(Backend& backend, const ConstMatrix& y, const Pictures& pictures);
// out = x y^T, likewise.
void block_gram(Backend& backend, const RunControl& control, const ConstMatrix& x, const ConstMatrix& y,
                const Matrix& out);

}  // namespace trimtok
