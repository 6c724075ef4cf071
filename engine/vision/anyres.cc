#include "engine/vision/anyres.h"

#include <algorithm>
#include <cmath>

namespace trimtok {
namespace {

// Python's int(round(x, 7)) for x = side * grid / other side: its distance to an integer is either
// floating-point noise or at least 1 / 46000, so no value comes near the rounding boundary.
int32_t trunc_rounded(double x) {
  return static_cast<int32_t>(std::floor(x + 5e-8));
}

}  // namespace

Pinpoint best_resolution(int32_t width, int32_t height, const std::vector<Pinpoint>& pinpoints) {
  Pinpoint best;
  int64_t best_effective = -1;
  int64_t best_wasted = 0;
  for (const Pinpoint& p : pinpoints) {
    const double scale =
        std::min(static_cast<double>(p.width) / width, static_cast<double>(p.height) / height);
    const auto scaled_width = static_cast<int64_t>(width * scale);
    const auto scaled_height = static_cast<int64_t>(height * scale);
    const int64_t effective = std::min(scaled_width * scaled_height, int64_t{width} * height);
    const int64_t wasted = int64_t{p.width} * p.height - effective;
    if (effective > best_effective || (effective == best_effective && wasted < best_wasted)) {
      best = p;
      best_effective = effective;
      best_wasted = wasted;
    }
  }
  return best;
}

Placement place_on_canvas(int32_t width, int32_t height, const Pinpoint& canvas) {
  const double scale_x = static_cast<double>(canvas.width) / width;
  const double scale_y = static_cast<double>(canvas.height) / height;
  Placement place;
  if (scale_x < scale_y) {
    place.width = canvas.width;
    place.height = std::min(static_cast<int32_t>(std::ceil(height * scale_x)), canvas.height);
  } else {
    place.width = std::min(static_cast<int32_t>(std::ceil(width * scale_y)), canvas.width);
    place.height = canvas.height;
  }
  place.left = (canvas.width - place.width) / 2;
  place.top = (canvas.height - place.height) / 2;
  return place;
}

GridCut unpad_grid(int32_t grid_width, int32_t grid_height, int32_t width, int32_t height) {
  GridCut cut{0, grid_height, 0, grid_width};
  const double aspect = static_cast<double>(width) / height;
  const double grid_aspect = static_cast<double>(grid_width) / grid_height;
  if (aspect > grid_aspect) {
    const int32_t kept = trunc_rounded(height * (static_cast<double>(grid_width) / width));
    cut.first_row = (grid_height - kept) / 2;
    cut.n_rows -= 2 * cut.first_row;
  } else {
    const int32_t kept = trunc_rounded(width * (static_cast<double>(grid_height) / height));
    cut.first_col = (grid_width - kept) / 2;
    cut.n_cols -= 2 * cut.first_col;
  }
  return cut;
}

}  // namespace trimtok
