// Pictures at their own resolution: their size in the tower, and the orders in which patches pass through it
// (spec 6.7, 8.3-8.5). Pure functions of sizes.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/vision/image.h"

namespace trimtok {

struct PixelLimits {
  int64_t min = 0;
  int64_t max = 0;
};

struct PixelSize {
  int32_t width = 0;
  int32_t height = 0;
};

// Sides that are multiples of `factor`, near the picture's own (round half to even), and an area within the
// limits as far as whole multiples allow. Throws Error(kInvalidArgument) when one side is more than 200 times
// the other: the models saw no such picture.
PixelSize smart_resize(int32_t width, int32_t height, int32_t factor, const PixelLimits& limits);
// The same for every frame of a video whose frames together are to be within the limits.
PixelSize smart_resize_video(int32_t width, int32_t height, int32_t n_frames, int32_t factor,
                             const PixelLimits& limits);

// Cells (merged blocks) in raster order, or grouped by windows of window x window cells: windows in raster
// order, cells of a window in raster order, the ones at the right and bottom edge cut.
struct CellOrder {
  std::vector<int32_t> cells;   // index in raster order of the j-th cell
  std::vector<int32_t> starts;  // [windows + 1]: first cell of each window, then the number of cells
};
CellOrder window_order(int32_t cells_across, int32_t cells_down, int32_t window);

// Raster index of every patch when cells pass in `order` and the merge x merge patches of a cell follow each
// other in raster order.
std::vector<int32_t> patch_order(const std::vector<int32_t>& order, int32_t cells_across, int32_t merge);

// Corner-aligned sampling of a table of n points at `count` places: between points `low` and `low + 1` (the
// last one again at the end), `share` of the way.
struct GridSample {
  int32_t low = 0;
  int32_t high = 0;
  float share = 0.0f;
};
std::vector<GridSample> corner_aligned_samples(int32_t n, int32_t count);

}  // namespace trimtok
