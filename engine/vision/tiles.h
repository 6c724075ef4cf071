// Pictures cut into square tiles of one size, with a view of the whole picture behind them: geometry that
// SmolVLM and InternVL share. Pure functions of sizes, and the cutting itself.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/vision/image.h"
#include "engine/vision/tower.h"

namespace trimtok {

// Tiles a canvas has; the picture was stretched to it. One tile: the whole picture is the only view.
struct TileGrid {
  int32_t cols = 1;
  int32_t rows = 1;
  int32_t n_tiles() const { return cols * rows; }
  bool is_cut() const { return n_tiles() > 1; }
  int32_t n_views() const { return is_cut() ? n_tiles() + 1 : 1; }
};

// What one view becomes: cells x cells rows, each showing a square of `cell_size` pixels of the view.
struct ViewShape {
  int32_t size = 0;  // pixels per side
  int32_t cells = 0;
  double cell_size = 0.0;
};

// Tiles row by row, then the whole picture; rows of every view in raster order. Boxes are in pixels of a
// picture of width x height. `parts` stays empty: how the views are wrapped is the family's.
ImagePlan plan_tiles(const TileGrid& tiles, const ViewShape& view, int32_t width, int32_t height);

// The tiles of a canvas of (cols * size) x (rows * size), row by row.
std::vector<Image> cut_tiles(const ImageView& canvas, const TileGrid& tiles, int32_t size);

}  // namespace trimtok
