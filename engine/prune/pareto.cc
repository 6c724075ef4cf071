#include "engine/prune/pareto.h"

#include <algorithm>
#include <numeric>

namespace trimtok {
namespace {

std::vector<double> normalised(std::span<const double> values) {
  std::vector<double> out(values.size(), 0.0);
  if (values.empty()) return out;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  if (*low == *high) return out;
  for (size_t i = 0; i < values.size(); ++i) out[i] = (values[i] - *low) / (*high - *low);
  return out;
}

}  // namespace

std::vector<int32_t> pareto_fronts(std::span<const double> div, std::span<const double> align) {
  std::vector<int32_t> order(div.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [](std::span<const double> v, int32_t i) { return v[static_cast<size_t>(i)]; };
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    if (at(div, a) != at(div, b)) return at(div, a) > at(div, b);
    return at(align, a) > at(align, b);
  });
  // In this order the last row of a front has its largest align, so it alone decides about domination; and
  // who is dominated by a front is dominated by every earlier one.
  std::vector<int32_t> last;
  std::vector<int32_t> fronts(div.size());
  for (const int32_t i : order) {
    const auto dominated = [&](int32_t other) {
      if (at(align, other) != at(align, i)) return at(align, other) > at(align, i);
      return at(div, other) > at(div, i);
    };
    const auto front = std::partition_point(last.begin(), last.end(), dominated);
    fronts[static_cast<size_t>(i)] = static_cast<int32_t>(front - last.begin());
    if (front == last.end()) {
      last.push_back(i);
    } else {
      *front = i;
    }
  }
  return fronts;
}

std::vector<int32_t> pareto_order(std::span<const double> div, std::span<const double> align, double weight) {
  const std::vector<int32_t> fronts = pareto_fronts(div, align);
  const std::vector<double> d = normalised(div);
  const std::vector<double> a = normalised(align);
  std::vector<double> score(d.size());
  for (size_t i = 0; i < d.size(); ++i) score[i] = weight * d[i] + (1.0 - weight) * a[i];
  std::vector<int32_t> order(d.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t x, int32_t y) {
    const auto i = static_cast<size_t>(x);
    const auto j = static_cast<size_t>(y);
    return fronts[i] != fronts[j] ? fronts[i] < fronts[j] : score[i] > score[j];
  });
  return order;
}

std::vector<int32_t> take_with_floor(std::span<const int32_t> order, std::span<const int32_t> picture,
                                     int64_t n_pictures, int64_t count) {
  const auto picture_of = [&](int32_t i) { return static_cast<size_t>(picture[static_cast<size_t>(i)]); };
  std::vector<int64_t> taken(static_cast<size_t>(n_pictures), 0);
  std::vector<int32_t> best(static_cast<size_t>(n_pictures), -1);
  std::vector<bool> kept(picture.size(), false);
  for (size_t rank = order.size(); rank-- > 0;) best[picture_of(order[rank])] = order[rank];
  for (size_t rank = 0; rank < static_cast<size_t>(count); ++rank) {
    kept[static_cast<size_t>(order[rank])] = true;
    ++taken[picture_of(order[rank])];
  }
  // From the worst survivor upwards; a picture's count only falls until it is one, so no rank is met twice.
  auto worst = static_cast<size_t>(count);
  for (size_t k = 0; k < taken.size(); ++k) {
    if (taken[k] > 0 || best[k] < 0) continue;
    while (worst > 0 && taken[picture_of(order[worst - 1])] < 2) --worst;
    if (worst == 0) break;
    --worst;
    kept[static_cast<size_t>(order[worst])] = false;
    --taken[picture_of(order[worst])];
    kept[static_cast<size_t>(best[k])] = true;
    taken[k] = 1;
  }
  std::vector<int32_t> result;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i]) result.push_back(static_cast<int32_t>(i));
  }
  return result;
}

}  // namespace trimtok
