#include "engine/vision/dynamic_grid.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"

namespace trimtok {
namespace {

constexpr int32_t kMaxAspect = 200;

// nearbyint rounds half to even, as Python's round does: 2.5 becomes 2.
int64_t nearest_multiple(int32_t side, int32_t factor) {
  const double rounded = std::nearbyint(static_cast<double>(side) / factor);
  return std::max<int64_t>(factor, static_cast<int64_t>(rounded) * factor);
}

// n_frames of the picture's size are measured, n_counted of the rounded size are compared with the limits.
PixelSize resize_within(int32_t width, int32_t height, int64_t n_frames, int64_t n_counted, int32_t factor,
                        const PixelLimits& limits) {
  check_image_size(width, height);
  // As a quotient of doubles, like the original: 200 : 1 itself passes.
  if (static_cast<double>(std::max(width, height)) / std::min(width, height) > kMaxAspect) {
    fail(ErrorCode::kInvalidArgument,
         "[image] %d x %d pixels, expected sides that differ by a factor of at most %d; crop the picture",
         width, height, kMaxAspect);
  }
  int64_t w = nearest_multiple(width, factor);
  int64_t h = nearest_multiple(height, factor);
  const double area = static_cast<double>(width) * height * static_cast<double>(n_frames);
  if (n_counted * w * h > limits.max) {
    const double shrink = std::sqrt(area / static_cast<double>(limits.max));
    const auto fit = [&](int32_t side) {
      return std::max<int64_t>(factor, static_cast<int64_t>(std::floor(side / shrink / factor)) * factor);
    };
    w = fit(width);
    h = fit(height);
  } else if (n_counted * w * h < limits.min) {
    const double grow = std::sqrt(static_cast<double>(limits.min) / area);
    const auto fit = [&](int32_t side) {
      return static_cast<int64_t>(std::ceil(side * grow / factor)) * factor;
    };
    w = fit(width);
    h = fit(height);
  }
  check_image_size(w, h);
  return {static_cast<int32_t>(w), static_cast<int32_t>(h)};
}

}  // namespace

PixelSize smart_resize(int32_t width, int32_t height, int32_t factor, const PixelLimits& limits) {
  return resize_within(width, height, 1, 1, factor, limits);
}

PixelSize smart_resize_video(int32_t width, int32_t height, int32_t n_frames, int32_t factor,
                             const PixelLimits& limits) {
  const auto n_pairs = static_cast<int64_t>(std::nearbyint(n_frames / 2.0));
  return resize_within(width, height, n_frames, std::max<int64_t>(2, 2 * n_pairs), factor, limits);
}

CellOrder window_order(int32_t cells_across, int32_t cells_down, int32_t window) {
  CellOrder order;
  order.starts.push_back(0);
  for (int32_t top = 0; top < cells_down; top += window) {
    for (int32_t left = 0; left < cells_across; left += window) {
      for (int32_t y = top; y < std::min(top + window, cells_down); ++y) {
        for (int32_t x = left; x < std::min(left + window, cells_across); ++x) {
          order.cells.push_back(y * cells_across + x);
        }
      }
      order.starts.push_back(static_cast<int32_t>(order.cells.size()));
    }
  }
  return order;
}

std::vector<int32_t> patch_order(const std::vector<int32_t>& order, int32_t cells_across, int32_t merge) {
  std::vector<int32_t> patches;
  patches.reserve(order.size() * static_cast<size_t>(merge) * static_cast<size_t>(merge));
  for (const int32_t cell : order) {
    const int32_t top = cell / cells_across * merge, left = cell % cells_across * merge;
    for (int32_t y = top; y < top + merge; ++y) {
      for (int32_t x = left; x < left + merge; ++x) patches.push_back(y * cells_across * merge + x);
    }
  }
  return patches;
}

std::vector<GridSample> corner_aligned_samples(int32_t n, int32_t count) {
  std::vector<GridSample> samples(static_cast<size_t>(count));
  const double step = count > 1 ? static_cast<double>(n - 1) / (count - 1) : 0.0;
  for (int32_t i = 0; i < count; ++i) {
    const double place = i * step;
    const int32_t low = std::min(static_cast<int32_t>(place), n - 1);
    samples[static_cast<size_t>(i)] = {low, std::min(low + 1, n - 1), static_cast<float>(place - low)};
  }
  return samples;
}

}  // namespace trimtok
