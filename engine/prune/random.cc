#include <algorithm>
#include <numeric>

#include "engine/prune/budget.h"
#include "engine/prune/selectors.h"

namespace trimtok {
namespace {

// splitmix64, started at the seed; one stream for all pictures in order.
class Splitmix {
 public:
  explicit Splitmix(uint64_t seed) : state_(seed) {}
  // floor(u n / 2^64): n is far below 2^32, so no value is favoured by more than 2^-32.
  int32_t below(int32_t n) {
    return static_cast<int32_t>((static_cast<unsigned __int128>(next()) * static_cast<uint64_t>(n)) >> 64);
  }

 private:
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

}  // namespace

std::vector<int32_t> proportional_budgets(const SelectorContext& c) {
  const std::vector<double> weights(c.scene.sizes.begin(), c.scene.sizes.end());
  return picture_budgets(c.scene.sizes, weights, c.report.budget);
}

// The first b_k steps of a Fisher-Yates shuffle of each picture's rows.
void select_random(SelectorContext& c) {
  const StageTimer timer(c.report, "select");
  c.report.budgets = proportional_budgets(c);
  Splitmix rng(c.options.seed);
  for (size_t k = 0; k < c.scene.sizes.size(); ++k) {
    std::vector<int32_t> rows(static_cast<size_t>(c.scene.sizes[k]));
    std::iota(rows.begin(), rows.end(), 0);
    for (int32_t i = 0; i < c.report.budgets[k]; ++i) {
      const int32_t j = i + rng.below(c.scene.sizes[k] - i);
      std::swap(rows[static_cast<size_t>(i)], rows[static_cast<size_t>(j)]);
    }
    rows.resize(static_cast<size_t>(c.report.budgets[k]));
    std::sort(rows.begin(), rows.end());
    c.report.kept.push_back(std::move(rows));
  }
}

}  // namespace trimtok
