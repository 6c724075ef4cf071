// TrimTokenator (arXiv 2509.00320): agreement with the text first, then max_sum.
#include <algorithm>
#include <numeric>

#include "engine/prune/agreement.h"
#include "engine/prune/greedy.h"
#include "engine/prune/selectors.h"

namespace trimtok {

namespace {

// Rows of one picture among `picture`, which may be absent.
std::vector<int32_t> rows_of_picture(std::span<const int32_t> picture, int32_t k) {
  std::vector<int32_t> own;
  for (size_t i = 0; i < picture.size(); ++i) {
    if (picture[i] == k) own.push_back(static_cast<int32_t>(i));
  }
  return own;
}

// The row of picture k, all of whose rows were filtered out, that max_sum would pick next.
int32_t least_similar(SelectorContext& c, int32_t k, const std::vector<int32_t>& kept) {
  const Arena::Mark mark(c.backend.arena());
  const Matrix rows = c.backend.arena().matrix(static_cast<int64_t>(kept.size()), c.scene.width);
  c.backend.gather_rows({rows, c.scene.unit, c.backend.upload(std::span<const int32_t>(kept)), 1.0f},
                        "pruning");
  const Matrix sum = c.backend.arena().matrix(1, c.scene.width);
  const int32_t begin[] = {0, static_cast<int32_t>(kept.size())};
  c.backend.sum_rows({sum, rows, nullptr, c.backend.upload(std::span<const int32_t>(begin))}, "pruning");
  const std::vector<float> score = project(c.backend, c.scene.unit_rows(static_cast<size_t>(k)), sum);
  const auto best = std::min_element(score.begin(), score.end()) - score.begin();
  return c.scene.begin[static_cast<size_t>(k)] + static_cast<int32_t>(best);
}

}  // namespace

void select_trimtokenator(SelectorContext& c) {
  const StageTimer timer(c.report, "select");
  const Scene& scene = c.scene;
  const Arena::Mark mark(c.backend.arena());
  const std::vector<double> align =
      agreement(c.backend, scene.input->text, Agreement::kL2, scene.unit, scene.norms);
  std::vector<int32_t> pool(align.size());
  std::iota(pool.begin(), pool.end(), 0);
  std::stable_sort(pool.begin(), pool.end(), [&](int32_t a, int32_t b) {
    return align[static_cast<size_t>(a)] > align[static_cast<size_t>(b)];
  });
  const int64_t size = std::max(c.report.budget, scene.n_rows * 4 / 5);
  c.report.pool_size = size;
  pool.resize(static_cast<size_t>(size));
  std::sort(pool.begin(), pool.end());
  const Matrix y = c.backend.arena().matrix(size, scene.width);
  c.backend.gather_rows({y, scene.unit, c.backend.upload(std::span<const int32_t>(pool)), 1.0f}, "pruning");
  GreedySet set(c.backend, c.control, y, GreedyRule::kMaxSum);
  set.pick(c.report.budget);
  std::vector<int32_t> made = set.picks();
  for (int32_t& i : made) i = pool[static_cast<size_t>(i)];
  std::vector<int32_t> pool_picture;
  for (const int32_t i : pool) pool_picture.push_back(scene.picture[static_cast<size_t>(i)]);
  std::vector<int32_t> picks = made;
  give_floor(scene.picture, scene.n_pictures, picks, [&](int32_t k) {
    const std::vector<int32_t> own = rows_of_picture(pool_picture, k);
    return own.empty() ? least_similar(c, k, made) : pool[static_cast<size_t>(set.next_among(own))];
  });
  c.report.kept = split_by_picture(scene, picks);
}

}  // namespace trimtok
