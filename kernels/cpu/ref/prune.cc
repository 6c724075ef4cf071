#include <algorithm>
#include <limits>

#include "kernels/cpu/ref/common.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::ref {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

double element(const ConstMatrix& x, int64_t t, int64_t i) {
  return x.dtype == Dtype::kF16 ? f32_from_f16(row<F16Bits>(x, t)[i]) : row<float>(x, t)[i];
}

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

const float* gram_row(const GreedyProblem& p, int64_t i) {
  const int64_t at = p.slot == nullptr ? i : p.slot[i];
  return at < 0 ? nullptr : row<float>(p.gram, at);
}

int64_t first_pick(const GreedyProblem& p, GreedyRule rule, int64_t n) {
  if (p.first >= 0) return p.first;
  int64_t pick = 0;
  for (int64_t i = 1; i < n; ++i) {
    const bool better =
        rule == GreedyRule::kFacility ? p.total[i] > p.total[pick] : p.total[i] < p.total[pick];
    if (better) pick = i;
  }
  return pick;
}

double facility_gain(const float* g, const double* best, int64_t n) {
  double gain = 0.0;
  for (int64_t j = 0; j < n; ++j) gain += std::max(0.0, g[j] - best[j]);
  return gain;
}

// The plain rule where the whole matrix is there. Otherwise the first candidate, by bound, whose gain is
// known to be fresh; -1 when a row is missing.
int64_t facility_next(const GreedyProblem& p, const double* best, int64_t t, int64_t n, double* score) {
  float* bound = row<float>(p.state, 1);
  float* round = row<float>(p.state, 2);
  int64_t pick = -1;
  while (p.slot != nullptr) {
    pick = std::max_element(bound, bound + n) - bound;
    const float* g = gram_row(p, pick);
    if (g == nullptr) return -1;
    *score = bound[pick];
    if (round[pick] == static_cast<float>(t)) return pick;
    bound[pick] = static_cast<float>(facility_gain(g, best, n));
    round[pick] = static_cast<float>(t);
  }
  for (int64_t i = 0; i < n; ++i) {
    if (bound[i] == -std::numeric_limits<float>::infinity()) continue;
    const double gain = facility_gain(gram_row(p, i), best, n);
    if (pick >= 0 && !(gain > *score)) continue;
    pick = i;
    *score = gain;
  }
  return pick;
}

void pick_rows(const GreedyPickArgs& a, int64_t b, double* state) {
  const GreedyProblem& p = a.problems[b];
  const int64_t n = p.gram.cols;
  const bool facility = a.rule == GreedyRule::kFacility;
  float* kept = row<float>(p.state, 0);
  int64_t t = a.done[b];
  for (int64_t j = 0; j < n; ++j) state[j] = kept[j];
  if (t == 0) {
    std::fill_n(state, n, a.rule == GreedyRule::kMaxSum ? 0.0 : -kInf);
    if (facility) std::fill_n(row<float>(p.state, 1), n, std::numeric_limits<float>::infinity());
    if (facility) std::fill_n(row<float>(p.state, 2), n, 0.0f);
  }
  for (; t < p.count; ++t) {
    double score = 0.0;
    int64_t pick = 0;
    if (t == 0) {
      pick = first_pick(p, a.rule, n);
      score = p.total == nullptr ? 0.0 : p.total[pick];
    } else if (facility) {
      pick = facility_next(p, state, t, n, &score);
    } else {
      pick = std::min_element(state, state + n) - state;
      score = state[pick];
      if (a.rule == GreedyRule::kMaxMin && score >= p.stop_at) break;
    }
    const float* g = pick < 0 ? nullptr : gram_row(p, pick);
    if (g == nullptr) break;
    row<int32_t>(a.out, b)[t] = static_cast<int32_t>(pick);
    if (a.scores.data != nullptr) row<float>(a.scores, b)[t] = static_cast<float>(score);
    if (facility) {
      row<float>(p.state, 1)[pick] = -std::numeric_limits<float>::infinity();
    } else {
      state[pick] = kInf;
    }
    for (int64_t j = 0; j < n; ++j) {
      state[j] = a.rule == GreedyRule::kMaxSum ? state[j] + g[j] : std::max(state[j], double{g[j]});
    }
  }
  a.done[b] = static_cast<int32_t>(t);
  for (int64_t j = 0; j < n; ++j) kept[j] = static_cast<float>(state[j]);
}

double gain_left(double gain, float scale) {
  const double whole = static_cast<double>(scale) * scale;
  return gain > std::max(kLeastGain, kGainNoise * whole) ? gain : 0.0;
}

// Of the first t picks' e of rows i and j, which lie behind row 0 of the state.
float factor_dot(const GreedyProblem& p, int64_t t, int64_t i, int64_t j) {
  float sum = 0.0f;
  for (int64_t group = 0; group < t; group += kFactorGroup) {
    float part = 0.0f;
    for (int64_t s = group; s < std::min(t, group + kFactorGroup); ++s) {
      const float* e = row<float>(p.state, 1 + s);
      part = std::fma(e[i], e[j], part);
    }
    sum += part;
  }
  return sum;
}

void add_to_factor(const GreedyProblem& p, int64_t t, int64_t pick, const float* g) {
  const auto root = static_cast<float>(std::sqrt(p.gain[pick]));
  for (int64_t i = 0; i < p.gram.cols; ++i) {
    if (p.gain[i] <= 0.0) continue;  // for good: its e are not needed again
    const float sum = factor_dot(p, t, i, pick);
    const float e = std::fma(p.scale[i] * p.scale[pick], g[i], -sum) / root;
    row<float>(p.state, 1 + t)[i] = e;
    if (i != pick) p.gain[i] = gain_left(p.gain[i] - static_cast<double>(e) * e, p.scale[i]);
  }
}

void pick_by_determinant(const GreedyPickArgs& a, int64_t b) {
  const GreedyProblem& p = a.problems[b];
  const int64_t n = p.gram.cols;
  float* nearest = row<float>(p.state, 0);
  int64_t t = a.done[b];
  for (int64_t i = 0; t == 0 && p.count > 0 && i < n; ++i) {
    nearest[i] = std::numeric_limits<float>::lowest();
    p.gain[i] = gain_left(static_cast<double>(p.scale[i]) * p.scale[i], p.scale[i]);
  }
  for (; t < p.count; ++t) {
    int64_t pick = std::max_element(p.gain, p.gain + n) - p.gain;
    const bool gains = p.gain[pick] > 0.0;
    if (!gains) pick = std::min_element(nearest, nearest + n) - nearest;
    const float* g = gram_row(p, pick);
    if (g == nullptr) break;
    row<int32_t>(a.out, b)[t] = static_cast<int32_t>(pick);
    if (a.scores.data != nullptr) {
      row<float>(a.scores, b)[t] = gains ? static_cast<float>(p.gain[pick]) : nearest[pick];
    }
    if (gains) add_to_factor(p, t, pick, g);
    p.gain[pick] = -kInf;
    nearest[pick] = std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < n; ++i) nearest[i] = std::max(nearest[i], g[i]);
  }
  a.done[b] = static_cast<int32_t>(t);
}

}  // namespace

Status unit_rows(const ExecContext& ctx, const UnitRowsArgs& a) {
  if (const Status s = check_unit_rows_args(a); s != Status::kOk) return s;
  for_each(ctx, a.out.rows, [&](int64_t t, int32_t) {
    double squares = 0.0;
    for (int64_t i = 0; i < a.x.cols; ++i) squares += element(a.x, t, i) * element(a.x, t, i);
    const double norm = std::sqrt(squares);
    for (int64_t i = 0; i < a.x.cols; ++i) {
      row<float>(a.out, t)[i] = norm == 0.0 ? 0.0f : static_cast<float>(element(a.x, t, i) / norm);
    }
    if (a.norms != nullptr) a.norms[t] = static_cast<float>(norm);
  });
  return Status::kOk;
}

Status sum_rows(const ExecContext& ctx, const SumRowsArgs& a) {
  if (const Status s = check_sum_rows_args(a); s != Status::kOk) return s;
  for_each(ctx, a.out.rows, [&](int64_t b, int32_t) {
    for (int64_t i = 0; i < a.out.cols; ++i) {
      double sum = 0.0;
      for (int64_t t = a.begin[b]; t < a.begin[b + 1]; ++t) {
        sum += (a.weight == nullptr ? 1.0 : a.weight[t]) * row<float>(a.x, t)[i];
      }
      row<float>(a.out, b)[i] = static_cast<float>(sum);
    }
  });
  return Status::kOk;
}

Status gram(const ExecContext& ctx, const GramArgs& a) {
  if (const Status s = check_gram_args(a); s != Status::kOk) return s;
  for_each(ctx, a.last - a.first, [&](int64_t task, int32_t) {
    const int64_t i = a.first + task;
    for (int64_t j = i; j < a.x.rows; ++j) {
      const auto value = static_cast<float>(dot(row<float>(a.x, i), row<float>(a.x, j), a.x.cols));
      row<float>(a.out, i)[j] = value;
      row<float>(a.out, j)[i] = value;
    }
  });
  return Status::kOk;
}

Status greedy_pick(const ExecContext& ctx, const GreedyPickArgs& a) {
  if (const Status s = check_greedy_pick_args(a); s != Status::kOk) return s;
  if (a.rule == GreedyRule::kDeterminant) {
    for_each(ctx, a.out.rows, [&](int64_t b, int32_t) { pick_by_determinant(a, b); });
    return Status::kOk;
  }
  int64_t widest = 0;
  for (int64_t b = 0; b < a.out.rows; ++b) widest = std::max(widest, a.problems[b].gram.cols);
  if (widest == 0) return Status::kOk;
  const auto doubles = static_cast<size_t>(widest) * static_cast<size_t>(ctx.n_threads);
  auto* state = static_cast<double*>(get_scratch(ctx, doubles * sizeof(double)));
  if (state == nullptr) return Status::kOutOfMemory;
  for_each(ctx, a.out.rows, [&](int64_t b, int32_t thread) { pick_rows(a, b, state + thread * widest); });
  return Status::kOk;
}

}  // namespace trimtok::ref
