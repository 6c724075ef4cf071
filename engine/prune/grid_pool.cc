#include <algorithm>
#include <numeric>

#include "engine/prune/selectors.h"
#include "trimtok/quant_blocks.h"

namespace trimtok {
namespace {

// Rows of every grid of a picture and, for each row, how many grids it lies in.
std::vector<int32_t> check_grids(const Scene& scene, size_t k) {
  std::vector<int32_t> covered(static_cast<size_t>(scene.sizes[k]), 0);
  for (const RowGrid& grid : scene.input->grids[k]) {
    const int64_t end = grid.height == 0 || grid.width == 0
                            ? 0
                            : grid.first + int64_t{grid.height - 1} * grid.stride + grid.width;
    if (grid.first < 0 || grid.width < 0 || grid.height < 0 || grid.stride < grid.width ||
        end > scene.sizes[k]) {
      fail(ErrorCode::kInvalidArgument, "[pruning] picture %zu has %d rows, its grid is %d x %d from row %d",
           k, scene.sizes[k], grid.width, grid.height, grid.first);
    }
    for (int32_t y = 0; y < grid.height; ++y) {
      for (int32_t x = 0; x < grid.width; ++x) {
        if (++covered[static_cast<size_t>(grid.first + y * grid.stride + x)] > 1) {
          fail(ErrorCode::kInvalidArgument, "[pruning] grids of picture %zu overlap", k);
        }
      }
    }
  }
  return covered;
}

int64_t n_blocks(const std::vector<RowGrid>& grids, int64_t side) {
  int64_t blocks = 0;
  for (const RowGrid& grid : grids) {
    blocks += ((grid.width + side - 1) / side) * ((grid.height + side - 1) / side);
  }
  return blocks;
}

// The smallest side whose blocks fit the budget; n_loose rows lie in no grid and stay as they are.
int64_t block_side(const Scene& scene, int64_t n_loose, int64_t budget) {
  int64_t largest = 1;
  for (const std::vector<RowGrid>& grids : scene.input->grids) {
    for (const RowGrid& grid : grids) largest = std::max<int64_t>({largest, grid.width, grid.height});
  }
  for (int64_t side = 1; side <= largest; ++side) {
    int64_t blocks = n_loose;
    for (const std::vector<RowGrid>& grids : scene.input->grids) blocks += n_blocks(grids, side);
    if (blocks <= budget) return side;
  }
  fail(ErrorCode::kInvalidArgument,
       "[pruning] grid_pool cannot reach %lld tokens, not even with one block per grid (%lld rows lie in "
       "none); use a larger budget",
       static_cast<long long>(budget), static_cast<long long>(n_loose));
}

void add_row(const ConstMatrix& rows, int32_t i, std::vector<double>& sum) {
  const auto* p = static_cast<const std::byte*>(rows.data) + i * rows.stride;
  for (size_t c = 0; c < sum.size(); ++c) {
    sum[c] += rows.dtype == Dtype::kF16 ? f32_from_f16(reinterpret_cast<const F16Bits*>(p)[c])
                                        : reinterpret_cast<const float*>(p)[c];
  }
}

// The blocks of one picture, each a list of rows in raster order, in the order of their first rows.
std::vector<std::vector<int32_t>> blocks_of(const std::vector<RowGrid>& grids,
                                            const std::vector<int32_t>& covered, int64_t side) {
  std::vector<std::vector<int32_t>> blocks;
  for (const RowGrid& grid : grids) {
    for (int64_t y = 0; y < grid.height; y += side) {
      for (int64_t x = 0; x < grid.width; x += side) {
        std::vector<int32_t>& cells = blocks.emplace_back();
        for (int64_t v = y; v < std::min<int64_t>(y + side, grid.height); ++v) {
          for (int64_t u = x; u < std::min<int64_t>(x + side, grid.width); ++u) {
            cells.push_back(static_cast<int32_t>(grid.first + v * grid.stride + u));
          }
        }
      }
    }
  }
  for (size_t i = 0; i < covered.size(); ++i) {
    if (covered[i] == 0) blocks.push_back({static_cast<int32_t>(i)});
  }
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

}  // namespace

void select_grid_pool(SelectorContext& c) {
  const StageTimer timer(c.report, "select");
  const Scene& scene = c.scene;
  if (scene.input->grids.empty()) {
    fail(ErrorCode::kInvalidArgument,
         "[pruning] grid_pool needs the token grid (width, height) of every picture");
  }
  std::vector<std::vector<int32_t>> covered;
  int64_t n_loose = 0;
  for (size_t k = 0; k < scene.sizes.size(); ++k) {
    covered.push_back(check_grids(scene, k));
    n_loose += std::count(covered.back().begin(), covered.back().end(), 0);
  }
  const int64_t side = block_side(scene, n_loose, c.report.budget);
  c.pooled.resize(scene.sizes.size());
  c.report.kept.resize(scene.sizes.size());
  Buffer copy;
  for (size_t k = 0; k < scene.sizes.size(); ++k) {
    c.control.step("prune", static_cast<int64_t>(k), scene.n_pictures);
    const bool own = scene.input->pooled_rows.empty();
    const ConstMatrix rows = c.backend.read(own ? scene.input->rows[k] : scene.input->pooled_rows[k], copy);
    std::vector<double> sum(static_cast<size_t>(rows.cols));
    for (const std::vector<int32_t>& cells : blocks_of(scene.input->grids[k], covered[k], side)) {
      std::fill(sum.begin(), sum.end(), 0.0);
      for (const int32_t i : cells) add_row(rows, i, sum);
      for (const double v : sum) {
        c.pooled[k].push_back(static_cast<float>(v / static_cast<double>(cells.size())));
      }
      c.report.kept[k].push_back(cells.front());
    }
  }
}

}  // namespace trimtok
