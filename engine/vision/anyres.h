// LLaVA-1.6 any-resolution geometry (spec 8.1), as transformers computes it. Pure functions of sizes.
#pragma once

#include <cstdint>
#include <vector>

namespace trimtok {

// A canvas that the picture may be put on. The GGUF array holds (height, width) pairs: transformers' reading;
// the original repository reads (width, height), which differs for ties only.
struct Pinpoint {
  int32_t height = 0;
  int32_t width = 0;
};

// The canvas with the largest effective resolution, then the least waste, then the first. `pinpoints` is not
// empty.
Pinpoint best_resolution(int32_t width, int32_t height, const std::vector<Pinpoint>& pinpoints);

// Where the picture lies on its canvas: scaled to width x height, its corner at (left, top). In pixels.
struct Placement {
  int32_t width = 0;
  int32_t height = 0;
  int32_t left = 0;
  int32_t top = 0;
};
Placement place_on_canvas(int32_t width, int32_t height, const Pinpoint& canvas);

// The part of a patch grid that is left when the rows or columns of padding are dropped. May be empty for
// pictures of extreme aspect.
struct GridCut {
  int32_t first_row = 0;
  int32_t n_rows = 0;
  int32_t first_col = 0;
  int32_t n_cols = 0;
};
GridCut unpad_grid(int32_t grid_width, int32_t grid_height, int32_t width, int32_t height);

}  // namespace trimtok
