#include "engine/vision/tiles.h"

#include <algorithm>

namespace trimtok {
namespace {

// The cells of one view. (left, top) is the view's corner on a canvas that shows the whole picture; scale_x
// and scale_y turn canvas pixels into picture pixels.
void add_boxes(ImagePlan& plan, const ViewShape& view, double left, double top, double scale_x,
               double scale_y, int32_t width, int32_t height) {
  const auto at = [](double value, double scale, int32_t limit) {
    return static_cast<float>(std::min(value * scale, static_cast<double>(limit)));
  };
  for (int32_t y = 0; y < view.cells; ++y) {
    for (int32_t x = 0; x < view.cells; ++x) {
      const double x0 = left + x * view.cell_size, y0 = top + y * view.cell_size;
      const RowBox box{at(x0, scale_x, width), at(y0, scale_y, height),
                       at(x0 + view.cell_size, scale_x, width), at(y0 + view.cell_size, scale_y, height)};
      plan.boxes.push_back(box);
    }
  }
}

}  // namespace

ImagePlan plan_tiles(const TileGrid& tiles, const ViewShape& view, int32_t width, int32_t height) {
  ImagePlan plan;
  plan.n_views = tiles.n_views();
  plan.view_width = plan.view_height = view.size;
  plan.n_rows = int64_t{plan.n_views} * view.cells * view.cells;
  for (int32_t v = 0; v < plan.n_views; ++v) {
    plan.grids.push_back({v * view.cells * view.cells, view.cells, view.cells, view.cells});
  }
  plan.boxes.reserve(static_cast<size_t>(plan.n_rows));
  if (tiles.is_cut()) {
    const double scale_x = static_cast<double>(width) / (double{1} * tiles.cols * view.size);
    const double scale_y = static_cast<double>(height) / (double{1} * tiles.rows * view.size);
    for (int32_t t = 0; t < tiles.n_tiles(); ++t) {
      const double left = static_cast<double>(t % tiles.cols) * view.size;
      const double top = static_cast<double>(t / tiles.cols) * view.size;
      add_boxes(plan, view, left, top, scale_x, scale_y, width, height);
    }
  }
  add_boxes(plan, view, 0.0, 0.0, static_cast<double>(width) / view.size,
            static_cast<double>(height) / view.size, width, height);
  return plan;
}

std::vector<Image> cut_tiles(const ImageView& canvas, const TileGrid& tiles, int32_t size) {
  std::vector<Image> views;
  views.reserve(static_cast<size_t>(tiles.n_views()));
  for (int32_t t = 0; t < tiles.n_tiles(); ++t) {
    views.push_back(crop(canvas, t % tiles.cols * size, t / tiles.cols * size, size, size));
  }
  return views;
}

}  // namespace trimtok
