#include "engine/prune/greedy.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace trimtok {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
// What kDeterminant may take between two looks at cancel, some 50 ms: it waits for memory, two bytes a FLOP.
constexpr double kFactorFlops = 5e8;
constexpr double kDeviceFactorFlops = 2e10;

}  // namespace

GreedySet::GreedySet(Backend& backend, const RunControl& control, const ConstMatrix& y, GreedyRule rule,
                     const Pictures& pictures, int64_t max_whole)
    : backend_(backend),
      control_(control),
      rule_(rule),
      state_(backend.arena().matrix(rule == GreedyRule::kFacility ? 3 : 1, y.rows)),
      gram_(backend, control, y, pictures, max_whole),
      total_(similarity_totals(backend, y, pictures)) {}

// The state, which may be large, comes first: what is left of the memory decides how gram is held.
GreedySet::GreedySet(Backend& backend, const RunControl& control, const ConstMatrix& y,
                     std::vector<float> scale, int64_t most)
    : backend_(backend),
      control_(control),
      rule_(GreedyRule::kDeterminant),
      state_(backend.arena().matrix(1 + most, y.rows)),
      gram_(backend, control, y, {}, GramRows::max_whole(backend)),
      scale_(std::move(scale)),
      gains_(scale_.size()),
      gain_(backend.output(std::span(gains_))) {}

void GreedySet::pick(int64_t count, int32_t first, float stop_at) {
  picks_.assign(static_cast<size_t>(count), -1);
  int32_t done = 0;
  const Arena::Mark mark(backend_.arena());
  GreedyProblem problem;
  problem.gram = gram_.matrix();
  if (rule_ == GreedyRule::kDeterminant) {
    problem.scale = backend_.upload(std::span<const float>(scale_));
    problem.gain = gain_;
  } else {
    problem.total = backend_.upload(std::span<const float>(total_));
  }
  problem.state = state_;
  problem.first = first;
  problem.stop_at = stop_at;
  GreedyPickArgs args;
  const Matrix out = {picks_.data(), Dtype::kI32, 1, count, std::max<int64_t>(count, 1) * 4};
  args.out = backend_.output(out);
  args.problems = &problem;
  args.done = backend_.update(std::span(&done, 1));
  args.rule = rule_;
  while (true) {
    {
      const Arena::Mark call_mark(backend_.arena());
      problem.slot = gram_.whole() ? nullptr : backend_.upload(gram_.slots());
      problem.count = next_stop(done, count);
      backend_.greedy_pick(args, "pruning");
    }
    backend_.fetch(std::span(&done, 1), args.done);
    control_.step("prune", done, count);
    if (done == count) break;
    if (done == problem.count) continue;
    if (gram_.whole() || (done > 0 && stopped(stop_at))) break;
    load_missing(done == 0 ? first : -2);
  }
  if (rule_ == GreedyRule::kDeterminant) read_gains();
  backend_.fetch(out, args.out);
  picks_.resize(static_cast<size_t>(done));
}

// The number of picks after which the host has another look at cancel.
int32_t GreedySet::next_stop(int32_t done, int64_t count) const {
  if (rule_ != GreedyRule::kDeterminant) return static_cast<int32_t>(count);
  double left = backend_.on_host() ? kFactorFlops : kDeviceFactorFlops;
  while (done < count && left > 0.0) left -= 2.0 * static_cast<double>(state_.cols) * ++done;
  return done;
}

bool GreedySet::stopped(float stop_at) const {
  if (rule_ != GreedyRule::kMaxMin) return false;
  Buffer copy;
  const float* state = row_of(backend_.read(state_, copy), 0);
  return *std::min_element(state, state + state_.cols) >= stop_at;
}

// The row that greedy_pick waits for, and those that it will soon: first is that of pick(), -2 after the
// first pick.
void GreedySet::load_missing(int32_t first) {
  const auto n = static_cast<size_t>(state_.cols);
  std::vector<float> worth(n);
  if (rule_ == GreedyRule::kDeterminant) {
    read_gains();
    std::vector<int32_t> all(n);
    std::iota(all.begin(), all.end(), 0);
    const int32_t wanted = best_by_determinant(all);
    const bool gains = gains_[static_cast<size_t>(wanted)] > 0.0;
    for (size_t i = 0; i < n; ++i) worth[i] = gains ? static_cast<float>(gains_[i]) : -nearest_[i];
    gram_.load(wanted, worth);
    return;
  }
  const bool largest = rule_ == GreedyRule::kFacility;
  Buffer copy;
  const float* value = total_.data();
  if (first < -1) value = row_of(backend_.read(row_range(state_, largest ? 1 : 0, 1), copy), 0);
  for (size_t i = 0; i < n; ++i) worth[i] = largest ? value[i] : -value[i];
  int32_t wanted = first;
  if (first < 0) wanted = static_cast<int32_t>(std::max_element(worth.begin(), worth.end()) - worth.begin());
  gram_.load(wanted, worth);
}

// best: of every row, similarity to its nearest pick.
double GreedySet::gain(int32_t i, const float* best) {
  if (!gram_.has(i)) gram_.load(i, std::vector<float>(static_cast<size_t>(state_.cols), -kInf));
  const float* g = gram_.row(i);
  double sum = 0.0;
  for (int64_t j = 0; j < state_.cols; ++j) sum += std::max(0.0f, g[j] - best[j]);
  return sum;
}

void GreedySet::read_gains() {
  backend_.fetch(std::span(gains_), gain_);
  nearest_ = row_of(backend_.read(row_range(state_, 0, 1), nearest_copy_), 0);
}

// By determinant while one of these rows gains, then by distance; picked rows never win.
int32_t GreedySet::best_by_determinant(std::span<const int32_t> rows) const {
  const auto gain_of = [&](int32_t i) { return gains_[static_cast<size_t>(i)]; };
  const int32_t best = *std::max_element(rows.begin(), rows.end(),
                                         [&](int32_t a, int32_t b) { return gain_of(a) < gain_of(b); });
  if (gain_of(best) > 0.0) return best;
  return *std::min_element(rows.begin(), rows.end(),
                           [&](int32_t a, int32_t b) { return nearest_[a] < nearest_[b]; });
}

int32_t GreedySet::next_among(std::span<const int32_t> candidates) {
  if (rule_ == GreedyRule::kDeterminant) return best_by_determinant(candidates);
  Buffer copy;
  const float* state = row_of(backend_.read(row_range(state_, 0, 1), copy), 0);
  if (rule_ != GreedyRule::kFacility) {
    return *std::min_element(candidates.begin(), candidates.end(),
                             [&](int32_t a, int32_t b) { return state[a] < state[b]; });
  }
  int32_t best = candidates.front();
  double best_gain = -1.0;
  for (const int32_t i : candidates) {
    const double g = gain(i, state);
    if (!(g > best_gain)) continue;
    best = i;
    best_gain = g;
  }
  return best;
}

void give_floor(std::span<const int32_t> picture, int64_t n_pictures, std::vector<int32_t>& picks,
                const std::function<int32_t(int32_t)>& next) {
  const auto picture_of = [&](int32_t i) { return static_cast<size_t>(picture[static_cast<size_t>(i)]); };
  std::vector<bool> has_rows(static_cast<size_t>(n_pictures), false);
  std::vector<int32_t> taken(static_cast<size_t>(n_pictures), 0);
  for (const int32_t k : picture) has_rows[static_cast<size_t>(k)] = true;
  for (const int32_t i : picks) ++taken[picture_of(i)];
  std::vector<int32_t> added;
  // A picture's count only falls until it is one, so the search never turns back.
  size_t latest = picks.size();
  for (size_t k = 0; k < taken.size(); ++k) {
    if (taken[k] > 0 || !has_rows[k]) continue;
    while (latest > 0 && taken[picture_of(picks[latest - 1])] < 2) --latest;
    if (latest == 0) break;
    --latest;
    --taken[picture_of(picks[latest])];
    picks.erase(picks.begin() + static_cast<std::ptrdiff_t>(latest));
    added.push_back(next(static_cast<int32_t>(k)));
    taken[k] = 1;
  }
  picks.insert(picks.end(), added.begin(), added.end());
}

std::vector<int32_t> picks_with_floor(const Scene& scene, GreedySet& set) {
  std::vector<int32_t> picks = set.picks();
  give_floor(scene.picture, scene.n_pictures, picks, [&](int32_t k) {
    const auto at = static_cast<size_t>(k);
    std::vector<int32_t> own(static_cast<size_t>(scene.begin[at + 1] - scene.begin[at]));
    std::iota(own.begin(), own.end(), scene.begin[at]);
    return set.next_among(own);
  });
  return picks;
}

}  // namespace trimtok
