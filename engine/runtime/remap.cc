#include "engine/runtime/remap.h"

#include <algorithm>

namespace trimtok {

std::vector<int64_t> kept_indices(const SequencePlan& plan, std::span<const std::vector<int32_t>> kept) {
  std::vector<int64_t> indices;
  int64_t start = 0;
  for (const Segment& segment : plan.segments) {
    if (segment.image < 0) {
      for (int64_t i = 0; i < segment.size(); ++i) indices.push_back(start + i);
    } else {
      const std::vector<int32_t>& rows = kept[static_cast<size_t>(segment.image)];
      const auto first = std::lower_bound(rows.begin(), rows.end(), segment.row_start);
      const auto last = std::lower_bound(first, rows.end(), segment.row_start + segment.n_rows);
      for (auto row = first; row != last; ++row) indices.push_back(start + *row - segment.row_start);
    }
    start += segment.size();
  }
  return indices;
}

namespace {

// Positions of the kept rows moved together, run by run of `plan`; returns the next position.
int32_t compact_positions(const SequencePlan& plan, std::span<const int64_t> indices, SequencePlan& out) {
  const auto n_out = static_cast<size_t>(out.n_rows);
  if (plan.n_pos == 1) {
    for (size_t i = 0; i < n_out; ++i) out.positions[i] = static_cast<int32_t>(i);
    return static_cast<int32_t>(n_out);
  }
  int64_t start = 0;
  size_t row = 0;
  int32_t next = 0, shift = 0;
  bool after_rows = false;
  for (const Segment& segment : plan.segments) {
    const int64_t end = start + segment.size();
    // The first row of a run lies where the run begins, in every component; runs without text between them
    // move together.
    if (!after_rows || segment.image < 0) shift = next - plan.positions[static_cast<size_t>(start)];
    after_rows = segment.image >= 0;
    for (; row < n_out && indices[row] < end; ++row) {
      for (size_t c = 0; c < static_cast<size_t>(plan.n_pos); ++c) {
        int32_t& position = out.positions[c * n_out + row];
        position += shift;
        next = std::max(next, position + 1);
      }
    }
    start = end;
  }
  return next;
}

}  // namespace

SequencePlan keep_rows(const SequencePlan& plan, std::span<const int64_t> indices, PositionPolicy policy) {
  SequencePlan out;
  out.n_rows = static_cast<int64_t>(indices.size());
  int64_t start = 0;
  auto next = indices.begin();
  for (const Segment& segment : plan.segments) {
    const int64_t end = start + segment.size();
    if (segment.image < 0) {
      out.segments.push_back(segment);
      next += segment.size();
    }
    for (; next != indices.end() && *next < end; ++next) {
      const int64_t row = segment.row_start + *next - start;
      ++out.n_visual;
      const bool extends = !out.segments.empty() && out.segments.back().image == segment.image &&
                           out.segments.back().row_start + out.segments.back().n_rows == row;
      if (extends) {
        ++out.segments.back().n_rows;
      } else {
        out.segments.push_back({{}, segment.image, row, 1});
      }
    }
    start = end;
  }

  out.n_pos = plan.n_pos;
  for (int64_t c = 0; c < plan.n_pos; ++c) {
    for (const int64_t index : indices) {
      out.positions.push_back(plan.positions[static_cast<size_t>(c * plan.n_rows + index)]);
    }
  }
  for (const int64_t index : indices) {
    const int64_t end = plan.visible_end[static_cast<size_t>(index)];
    out.visible_end.push_back(
        static_cast<int32_t>(std::lower_bound(indices.begin(), indices.end(), end) - indices.begin()));
  }
  out.next_position = plan.next_position;
  if (policy == PositionPolicy::kCompact) out.next_position = compact_positions(plan, indices, out);
  return out;
}

}  // namespace trimtok
