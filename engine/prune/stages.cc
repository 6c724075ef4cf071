#include "engine/prune/stages.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/prune/agreement.h"
#include "engine/prune/budget.h"
#include "engine/prune/greedy.h"
#include "engine/prune/pareto.h"
#include "engine/prune/selectors.h"

namespace trimtok {
namespace {

constexpr float kNever = 3.4e38f;

using Picks = std::vector<std::vector<int32_t>>;

// Pictures whose Gram matrices are held at once, and whose picks are made side by side.
struct Group {
  std::vector<size_t> pictures;
  int64_t elements = 0;
};

void pick_group(Backend& backend, const RunControl& control, const Scene& scene, const Group& group,
                std::span<const int32_t> counts, GreedyRule rule, float stop_at, Picks& picks) {
  if (group.pictures.empty()) return;
  const Arena::Mark mark(backend.arena());
  std::vector<GreedyProblem> problems;
  int64_t most = 0;
  for (const size_t k : group.pictures) {
    const ConstMatrix y = scene.unit_rows(k);
    const Matrix gram = backend.arena().matrix(y.rows, y.rows);
    whole_gram(backend, control, y, gram);
    const Matrix total = project_in_arena(backend, y, row_range(scene.sums, static_cast<int64_t>(k), 1));
    GreedyProblem problem;
    problem.gram = gram;
    problem.total = static_cast<const float*>(total.data);
    problem.state = backend.arena().matrix(rule == GreedyRule::kFacility ? 3 : 1, y.rows);
    problem.count = counts[k];
    problem.stop_at = stop_at;
    problems.push_back(problem);
    most = std::max<int64_t>(most, counts[k]);
  }
  std::vector<int32_t> done(problems.size(), 0);
  GreedyPickArgs args;
  args.out = backend.arena().matrix(static_cast<int64_t>(problems.size()), most, Dtype::kI32);
  args.problems = problems.data();
  args.done = backend.update(std::span(done));
  args.rule = rule;
  backend.greedy_pick(args, "pruning");
  backend.fetch(std::span(done), args.done);
  Buffer copy;
  const ConstMatrix out = backend.read(args.out, copy);
  for (size_t b = 0; b < problems.size(); ++b) {
    const auto* row = reinterpret_cast<const int32_t*>(row_of(out, static_cast<int64_t>(b)));
    picks[group.pictures[b]].assign(row, row + done[b]);
  }
}

// Row ids among `candidates`, the pool of stage 2, in pick order.
std::vector<int32_t> candidate_pool(Backend& backend, const RunControl& control, const Scene& scene,
                                    const ConstMatrix& y, const Pictures& pictures, int64_t size,
                                    GreedyRule rule) {
  std::vector<int32_t> pool(static_cast<size_t>(y.rows));
  std::iota(pool.begin(), pool.end(), 0);
  if (size == y.rows) return pool;
  const Arena::Mark mark(backend.arena());
  GreedySet set(backend, control, y, rule, pictures, GramRows::max_whole(backend));
  set.pick(size);
  pool = set.picks();
  const std::span<const int32_t> picture = pictures.of_row;
  give_floor(picture, scene.n_pictures, pool, [&](int32_t k) {
    std::vector<int32_t> own;
    for (size_t i = 0; i < picture.size(); ++i) {
      if (picture[i] == k) own.push_back(static_cast<int32_t>(i));
    }
    return set.next_among(own);
  });
  return pool;
}

// 1 - mean similarity of each row to the others.
std::vector<double> pool_diversity(Backend& backend, const ConstMatrix& y, const Pictures& pictures,
                                   std::span<const float> norms) {
  std::vector<double> div(static_cast<size_t>(y.rows), 0.0);
  if (y.rows < 2) return div;
  const std::vector<float> total = similarity_totals(backend, y, pictures);
  for (size_t i = 0; i < div.size(); ++i) {
    const double self = norms[i] > 0.0f ? 1.0 : 0.0;
    div[i] = 1.0 - (total[i] - self) / static_cast<double>(y.rows - 1);
  }
  return div;
}

}  // namespace

Picks pick_inside_pictures(Backend& backend, const RunControl& control, const Scene& scene,
                           std::span<const int32_t> counts, GreedyRule rule, float stop_at) {
  Picks picks(scene.sizes.size());
  Group group;
  const auto flush = [&] {
    pick_group(backend, control, scene, group, counts, rule, stop_at, picks);
    group = Group();
  };
  for (size_t k = 0; k < scene.sizes.size(); ++k) {
    const int64_t m = scene.sizes[k];
    if (counts[k] == 0) continue;
    if (counts[k] == m && stop_at == kNever) {  // the order of the picks plays no part
      picks[k].resize(static_cast<size_t>(m));
      std::iota(picks[k].begin(), picks[k].end(), 0);
      continue;
    }
    if (m > GramRows::kMaxWhole) {
      const Arena::Mark mark(backend.arena());
      GreedySet set(backend, control, scene.unit_rows(k), rule);
      set.pick(counts[k], -1, stop_at);
      picks[k] = set.picks();
      continue;
    }
    if (group.elements + m * m > GramRows::kMaxWhole * GramRows::kMaxWhole) flush();
    group.pictures.push_back(k);
    group.elements += m * m;
  }
  flush();
  return picks;
}

std::vector<int32_t> select_across_pictures(Backend& backend, const RunControl& control, const Scene& scene,
                                            const std::vector<int32_t>& candidates, int64_t budget,
                                            const PruneOptions& options, PruneReport& report) {
  const Arena::Mark mark(backend.arena());
  const auto n = static_cast<int64_t>(candidates.size());
  const auto weight = static_cast<float>(options.inter_weight);
  const double wanted = std::ceil(options.pool * static_cast<double>(budget));
  const int64_t size = wanted < static_cast<double>(n) ? static_cast<int64_t>(wanted) : n;
  std::vector<int32_t> pool;
  {
    const StageTimer timer(report, "pool");
    ConstMatrix y = scene.unit;
    std::vector<int32_t> picture;
    for (const int32_t i : candidates) picture.push_back(scene.picture[static_cast<size_t>(i)]);
    if (size < n && n < scene.n_rows) {
      const Matrix rows = backend.arena().matrix(n, scene.width);
      backend.gather_rows({rows, scene.unit, backend.upload(std::span<const int32_t>(candidates)), 1.0f},
                          "pruning");
      y = rows;
    }
    y.rows = n;
    pool = candidate_pool(backend, control, scene, y, {picture, weight}, size, options.stage1);
    for (int32_t& i : pool) i = candidates[static_cast<size_t>(i)];
    std::sort(pool.begin(), pool.end());
  }
  report.pool_size = size;

  const StageTimer timer(report, "pareto");
  control.step("prune", 0, size);
  std::vector<float> norms;
  std::vector<int32_t> picture;
  for (const int32_t i : pool) {
    norms.push_back(scene.norms[static_cast<size_t>(i)]);
    picture.push_back(scene.picture[static_cast<size_t>(i)]);
  }
  const Matrix y = backend.arena().matrix(size, scene.width);
  backend.gather_rows({y, scene.unit, backend.upload(std::span<const int32_t>(pool)), 1.0f}, "pruning");
  const std::vector<double> div = pool_diversity(backend, y, {picture, weight}, norms);
  const std::vector<double> align = agreement(backend, scene.input->text, options.align, y, norms);
  const std::vector<int32_t> order = pareto_order(div, align, options.pareto_weight);
  std::vector<int32_t> kept = take_with_floor(order, picture, scene.n_pictures, budget);
  for (int32_t& i : kept) i = pool[static_cast<size_t>(i)];
  return kept;
}

void select_trimtokenator_lc(SelectorContext& c) {
  PruneReport& report = c.report;
  if (c.options.budget == BudgetKind::kCoverage) {
    report.stage1_budget = report.budget;
    report.kept = c.covering;
    for (const std::vector<int32_t>& list : report.kept)
      report.budgets.push_back(static_cast<int32_t>(list.size()));
    return;
  }
  report.alpha = c.options.alpha
                     ? *c.options.alpha
                     : stage_split(c.measures.d_intra_mean, c.measures.d_inter, c.scene.n_nonempty);
  report.stage1_budget = stage1_budget(report.budget, c.scene.n_rows, *report.alpha);
  std::vector<double> weights;
  for (size_t k = 0; k < c.scene.sizes.size(); ++k) {
    weights.push_back(c.scene.sizes[k] * std::max(c.measures.d_intra[k], 1e-6));
  }
  report.budgets = picture_budgets(c.scene.sizes, weights, *report.stage1_budget);
  std::vector<int32_t> candidates;
  {
    const StageTimer timer(report, "stage1");
    Picks picks = pick_inside_pictures(c.backend, c.control, c.scene, report.budgets, c.options.stage1);
    for (size_t k = 0; k < picks.size(); ++k) {
      std::sort(picks[k].begin(), picks[k].end());
      for (const int32_t i : picks[k]) candidates.push_back(c.scene.begin[k] + i);
    }
  }
  if (*report.stage1_budget > report.budget) {
    candidates =
        select_across_pictures(c.backend, c.control, c.scene, candidates, report.budget, c.options, report);
  }
  report.kept = split_by_picture(c.scene, candidates);
}

}  // namespace trimtok
