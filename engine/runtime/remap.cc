#include "engine/runtime/remap.h"

#include <algorithm>
#include <numeric>

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

  const bool compact = policy == PositionPolicy::kCompact;
  for (const int64_t index : indices) {
    out.positions.push_back(plan.positions[static_cast<size_t>(index)]);
    const int64_t end = plan.visible_end[static_cast<size_t>(index)];
    out.visible_end.push_back(
        static_cast<int32_t>(std::lower_bound(indices.begin(), indices.end(), end) - indices.begin()));
  }
  if (compact) std::iota(out.positions.begin(), out.positions.end(), 0);
  out.next_position = compact ? static_cast<int32_t>(out.n_rows) : plan.next_position;
  return out;
}

}  // namespace trimtok
