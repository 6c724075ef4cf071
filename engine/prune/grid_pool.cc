#include <algorithm>
#include <numeric>

#include "engine/prune/selectors.h"
#include "trimtok/quant_blocks.h"

namespace trimtok {
namespace {

int64_t n_blocks(const Scene& scene, size_t k, int64_t side) {
  const GridSize grid = scene.input->grids[k];
  const int64_t cells = static_cast<int64_t>(grid.width) * grid.height;
  const int64_t blocks = ((grid.width + side - 1) / side) * ((grid.height + side - 1) / side);
  return blocks + scene.sizes[k] - cells;  // rows behind the grid stay as they are
}

// The smallest side whose blocks fit the budget.
int64_t block_side(const Scene& scene, int64_t budget) {
  int64_t largest = 1;
  for (const GridSize& grid : scene.input->grids)
    largest = std::max<int64_t>({largest, grid.width, grid.height});
  for (int64_t side = 1; side <= largest; ++side) {
    int64_t blocks = 0;
    for (size_t k = 0; k < scene.sizes.size(); ++k) blocks += n_blocks(scene, k, side);
    if (blocks <= budget) return side;
  }
  fail(ErrorCode::kInvalidArgument,
       "[pruning] grid_pool cannot reach %lld tokens, not even with one block per picture: rows behind the "
       "grid "
       "cannot be pooled; use a larger budget",
       static_cast<long long>(budget));
}

void add_row(const ConstMatrix& rows, int32_t i, std::vector<double>& sum) {
  const auto* p = static_cast<const std::byte*>(rows.data) + i * rows.stride;
  for (size_t c = 0; c < sum.size(); ++c) {
    sum[c] += rows.dtype == Dtype::kF16 ? f32_from_f16(reinterpret_cast<const F16Bits*>(p)[c])
                                        : reinterpret_cast<const float*>(p)[c];
  }
}

struct Pooler {
  const ConstMatrix& rows;
  std::vector<int32_t>& kept;
  std::vector<float>& pooled;
  std::vector<double> sum;

  void block(std::span<const int32_t> cells) {
    std::fill(sum.begin(), sum.end(), 0.0);
    for (const int32_t i : cells) add_row(rows, i, sum);
    for (const double v : sum) pooled.push_back(static_cast<float>(v / static_cast<double>(cells.size())));
    kept.push_back(cells.front());
  }
};

}  // namespace

void select_grid_pool(SelectorContext& c) {
  const StageTimer timer(c.report, "select");
  const Scene& scene = c.scene;
  if (scene.input->grids.empty()) {
    fail(ErrorCode::kInvalidArgument,
         "[pruning] grid_pool needs the token grid (width, height) of every picture");
  }
  for (size_t k = 0; k < scene.sizes.size(); ++k) {
    const GridSize grid = scene.input->grids[k];
    const int64_t cells = static_cast<int64_t>(grid.width) * grid.height;
    if (grid.width >= 0 && grid.height >= 0 && cells <= scene.sizes[k]) continue;
    fail(ErrorCode::kInvalidArgument, "[pruning] picture %zu has %d rows, its grid is %d x %d", k,
         scene.sizes[k], grid.width, grid.height);
  }
  const int64_t side = block_side(scene, c.report.budget);
  c.pooled.resize(scene.sizes.size());
  c.report.kept.resize(scene.sizes.size());
  for (size_t k = 0; k < scene.sizes.size(); ++k) {
    c.control.step("prune", static_cast<int64_t>(k), scene.n_pictures);
    const GridSize grid = scene.input->grids[k];
    Pooler pooler{scene.input->rows[k], c.report.kept[k], c.pooled[k],
                  std::vector<double>(static_cast<size_t>(scene.width))};
    for (int64_t y = 0; y < grid.height; y += side) {
      for (int64_t x = 0; x < grid.width; x += side) {
        std::vector<int32_t> cells;
        for (int64_t v = y; v < std::min<int64_t>(y + side, grid.height); ++v) {
          for (int64_t u = x; u < std::min<int64_t>(x + side, grid.width); ++u) {
            cells.push_back(static_cast<int32_t>(v * grid.width + u));
          }
        }
        pooler.block(cells);
      }
    }
    for (int32_t i = grid.width * grid.height; i < scene.sizes[k]; ++i) pooler.block({&i, 1});
  }
}

}  // namespace trimtok
