// Cases of greedy_pick by kDeterminant. args.h fixes its arithmetic, so picks, scores, gains and nearest
// picks are compared exactly; the picks are also held to gains that Gaussian elimination in f64 comes to.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness.h"
#include "picks.h"

namespace trimtok::parity {
namespace {

constexpr float kInf = INFINITY;

enum class Rows { kNormal, kRepeated, kOneHot, kSomeZero };
constexpr const char* kRowsNames[] = {"normal", "repeated", "one-hot", "some zero"};

struct Case {
  int64_t n;
  int64_t width;  // of the rows: no more than so many picks gain
  int64_t count;
  Rows rows = Rows::kNormal;
  bool relevance = true;  // false: all rows alike
};

// Unit rows [n, width] with their scales.
struct Scene {
  std::vector<std::vector<double>> rows;
  Tensor scale;

  Scene(Suite& s, const Case& c) : scale(Dtype::kF32, 1, c.n, s.next_layout()) {
    for (int64_t i = 0; i < c.n; ++i) {
      std::vector<double> row(static_cast<size_t>(c.width), 0.0);
      const bool zero = c.rows == Rows::kSomeZero && i % 5 == 2;
      const bool again = c.rows == Rows::kRepeated && i > c.n / 3;
      double squares = 0.0;
      for (double& v : row) {
        v = s.rng().normal();
        squares += v * v;
      }
      for (double& v : row) v = zero ? 0.0 : v / std::sqrt(squares);
      if (again) row = rows[static_cast<size_t>(s.rng().below(static_cast<int32_t>(i)))];
      if (c.rows == Rows::kOneHot) {
        std::fill(row.begin(), row.end(), 0.0);
        row[static_cast<size_t>(s.rng().below(static_cast<int32_t>(c.width)))] = 1.0;
      }
      rows.push_back(std::move(row));
      // Few values, so that repeated rows may be alike in theirs, too.
      const float relevance = c.relevance ? 0.125f * static_cast<float>(1 + s.rng().below(8)) : 1.0f;
      scale.f32(0)[i] = zero ? 0.0f : relevance;
    }
  }
  void fill_gram_row(int64_t i, float* out) const {
    for (size_t j = 0; j < rows.size(); ++j) {
      double sum = 0.0;
      for (size_t k = 0; k < rows[j].size(); ++k) sum += rows[static_cast<size_t>(i)][k] * rows[j][k];
      out[j] = static_cast<float>(sum);
    }
  }
};

// Problems of one call, with fresh state for every run.
struct Picking {
  std::vector<Scene> scenes;
  std::vector<Tensor> grams;
  std::vector<Tensor> states;
  std::vector<Array<double>> gains;
  std::vector<GreedyProblem> problems;
  Array<int32_t> done;

  // gram_rows: how many rows of gram there is room for; n: all of them, filled.
  void add(Suite& s, const Case& c, int64_t gram_rows) {
    scenes.emplace_back(s, c);
    grams.emplace_back(Dtype::kF32, gram_rows, c.n, s.next_layout());
    for (int64_t i = 0; gram_rows == c.n && i < c.n; ++i) scenes.back().fill_gram_row(i, grams.back().f32(i));
    states.emplace_back(Dtype::kF32, 1 + c.count + s.rng().below(2), c.n, s.next_layout());
    gains.emplace_back(static_cast<size_t>(c.n));
    GreedyProblem p;
    p.gram = grams.back().matrix();
    p.scale = scenes.back().scale.f32(0);
    p.gain = gains.back().data();
    p.state = states.back().matrix();
    p.count = static_cast<int32_t>(c.count);
    problems.push_back(p);
  }
  void add(Suite& s, const Case& c) { add(s, c, c.n); }
  GreedyPickArgs args(const Matrix& out, const Matrix& scores) {
    done.assign(problems.size(), 0);
    for (const Tensor& state : states) {
      for (int64_t r = 0; r < state.rows(); ++r) std::memset(state.row(r), 0xff, 4 * state.cols());
    }
    for (Array<double>& gain : gains) std::fill(gain.begin(), gain.end(), NAN);
    return {out, scores, problems.data(), done.data(), GreedyRule::kDeterminant};
  }
  // Gains and nearest picks of all problems, as the latest call has left them.
  std::vector<double> left() const {
    std::vector<double> all;
    for (size_t b = 0; b < problems.size(); ++b) {
      if (problems[b].count == 0) continue;  // nothing touches it
      all.insert(all.end(), gains[b].begin(), gains[b].end());
      const float* nearest = states[b].f32(0);
      all.insert(all.end(), nearest, nearest + states[b].cols());
    }
    return all;
  }
};

void run_reference(const GreedyPickArgs& args) {
  const Execution execution(Execution::Threads::kNone, 1, 1);
  (void)cpu_table(Isa::kRef)->greedy_pick(execution.context(), args);
}

// What rows add to the determinant, by elimination: the diagonal of what the picks so far leave of L.
class Elimination {
 public:
  Elimination(const Tensor& gram, const float* scale) : n_(static_cast<size_t>(gram.rows())), rest_(n_ * n_) {
    for (size_t i = 0; i < n_; ++i) {
      for (size_t j = 0; j < n_; ++j) {
        rest_[i * n_ + j] = static_cast<double>(scale[i]) * scale[j] * gram.f32(static_cast<int64_t>(i))[j];
      }
    }
  }
  double gain(size_t i) const { return rest_[i * n_ + i]; }
  void take(size_t pick) {
    const std::vector<double> row(rest_.begin() + static_cast<std::ptrdiff_t>(pick * n_),
                                  rest_.begin() + static_cast<std::ptrdiff_t>((pick + 1) * n_));
    for (size_t i = 0; i < n_; ++i) {
      const double share = rest_[i * n_ + pick] / row[pick];
      for (size_t j = 0; j < n_ && share != 0.0; ++j) rest_[i * n_ + j] -= share * row[j];
    }
  }

 private:
  size_t n_;
  std::vector<double> rest_;
};

// No pick may be worse than another by more than f32 explains, and rows whose gain is clearly gone must be
// picked by their nearest pick, exactly. Between a half and twice the limit anything goes.
void check_picks(Suite& s, const Picking& picking, size_t b, const int32_t* picks) {
  const Tensor& gram = picking.grams[b];
  const float* scale = picking.problems[b].scale;
  const auto n = static_cast<size_t>(gram.cols());
  Elimination elimination(gram, scale);
  std::vector<float> nearest(n, -kInf);
  std::vector<bool> picked(n, false);
  for (int32_t t = 0; t < picking.problems[b].count; ++t) {
    const auto pick = static_cast<size_t>(picks[t]);
    if (pick >= n || picked[pick]) return s.expect(false, "a pick is no row, or one that was picked before");
    double best = 0.0;
    bool all_gone = true;
    float farthest = kInf;
    for (size_t i = 0; i < n; ++i) {
      if (picked[i]) continue;
      const double limit = std::max(kLeastGain, kGainNoise * scale[i] * scale[i]);
      if (elimination.gain(i) > 2.0 * limit) best = std::max(best, elimination.gain(i));
      all_gone = all_gone && elimination.gain(i) < 0.5 * limit;
      farthest = std::min(farthest, nearest[i]);
    }
    if (best > 0.0 && !(elimination.gain(pick) >= 0.999 * best - 1e-6)) {
      return s.expect(false, "another row gains more than the pick");
    }
    if (all_gone && !(nearest[pick] == farthest))
      return s.expect(false, "another row is farther from the picks");
    if (best == 0.0 && !all_gone) return;  // whether any row gains is not clear
    if (best > 0.0) elimination.take(pick);
    picked[pick] = true;
    for (size_t i = 0; i < n; ++i) nearest[i] = std::max(nearest[i], gram.f32(static_cast<int64_t>(pick))[i]);
  }
}

void compare_picking(Suite& s, Picking& picking, int64_t width) {
  compare_picks(s, picking, width);
  const Tensor picks(Dtype::kI32, static_cast<int64_t>(picking.problems.size()), width, s.next_layout());
  run_reference(picking.args(picks.matrix(), Matrix{}));
  const std::vector<double> expected = picking.left();
  const GreedyPickArgs args = picking.args(picks.matrix(), Matrix{});
  s.expect(s.run(&KernelTable::greedy_pick, args) == Status::kOk, "the call failed");
  s.expect(picking.left() == expected, "other gains or nearest picks are left than by the reference");
}

void check_case(Suite& s, const Case& c) {
  if (!s.begin_case("determinant n=%d D=%d count=%d rows=%s relevance=%d", static_cast<int>(c.n),
                    static_cast<int>(c.width), static_cast<int>(c.count),
                    kRowsNames[static_cast<int32_t>(c.rows)], c.relevance)) {
    return;
  }
  Picking picking;
  picking.add(s, c);
  compare_picking(s, picking, c.count);
  const Tensor picks(Dtype::kI32, 1, c.count);
  (void)s.run(&KernelTable::greedy_pick, picking.args(picks.matrix(), Matrix{}), Execution::Threads::kReal,
              3);
  check_picks(s, picking, 0, reinterpret_cast<const int32_t*>(picks.row(0)));
}

// The next row that the reference waits for, by what it has left.
int64_t awaited(const GreedyProblem& p) {
  const int64_t n = p.gram.cols;
  const double* most = std::max_element(p.gain, p.gain + n);
  if (*most > 0.0) return most - p.gain;
  const auto* nearest = static_cast<const float*>(p.state.data);
  return std::min_element(nearest, nearest + n) - nearest;
}

// Rows of gram that come when the picks wait for them, or, `shuffled`, in any order; now and then the caller
// asks for some picks first. The picks must be those that come of all rows at once.
void check_missing_rows(Suite& s, const Case& c, bool shuffled) {
  Picking picking;
  picking.add(s, c, c.count);
  GreedyProblem& p = picking.problems[0];
  const Tensor picks(Dtype::kI32, 1, c.count);
  Array<int32_t> slot(static_cast<size_t>(c.n), -1);
  p.slot = slot.data();
  GreedyPickArgs args = picking.args(picks.matrix(), Matrix{});
  for (int32_t used = 0; used < c.count; ++used) {
    run_reference(args);
    const int64_t i = awaited(p);
    s.expect(picking.done[0] == used && slot[static_cast<size_t>(i)] < 0, "the reference does not wait");
    slot[static_cast<size_t>(i)] = used;
    picking.scenes[0].fill_gram_row(i, picking.grams[0].f32(used));
  }
  run_reference(args);
  s.expect(picking.done[0] == c.count, "the reference does not finish");
  const std::vector<double> expected = picking.left();

  const Array<int32_t> slots_of_picks = slot;
  const auto* order = reinterpret_cast<const int32_t*>(picks.row(0));
  std::vector<int32_t> to_come(order, order + c.count);
  if (shuffled) {
    for (size_t i = to_come.size(); i > 1; --i) {
      std::swap(to_come[i - 1], to_come[static_cast<size_t>(s.rng().below(static_cast<int32_t>(i)))]);
    }
  }
  const Tensor resumed(Dtype::kI32, 1, c.count);
  std::fill(slot.begin(), slot.end(), -1);
  args = picking.args(resumed.matrix(), Matrix{});
  const auto go_on = [&](int32_t until) {
    p.count = until;
    return s.expect(s.run(&KernelTable::greedy_pick, args) == Status::kOk, "the call failed");
  };
  for (int32_t known = 0; known < c.count; ++known) {
    go_on(static_cast<int32_t>(c.count));
    if (!shuffled) s.expect(picking.done[0] == known, "does not go on, or not to the row that is missing");
    const auto i = static_cast<size_t>(to_come[static_cast<size_t>(known)]);
    slot[i] = slots_of_picks[i];
    if (known % 3 == 0) go_on(std::min(picking.done[0] + 1, static_cast<int32_t>(c.count)));
  }
  go_on(static_cast<int32_t>(c.count));
  s.expect(picking.done[0] == c.count && resumed.same_bytes(picks), "other picks than with all rows at once");
  s.expect(picking.left() == expected, "other gains or nearest picks than with all rows at once");
  compare_picking(s, picking, c.count);
}

}  // namespace

void determinant_anchors(Suite& s) {
  // Rows 0 and 1 are alike, 2 and 3 fairly, 4 is alone. Worked out by hand: once 0, 4, 3 and 2 are picked,
  // nothing is left of row 1, whose nearest pick is its double.
  const Tensor gram(Dtype::kF32, 5, 5, Layout{1, 3, false});
  const float values[] = {1,     1, 0.5f,  0.25f, 0,     1, 1, 0.5f, 0.25f, 0, 0.5f, 0.5f, 1,
                          0.75f, 0, 0.25f, 0.25f, 0.75f, 1, 0, 0,    0,     0, 0,    1};
  for (int64_t i = 0; i < 25; ++i) gram.f32(i / 5)[i % 5] = values[i];
  const Array<float> scale(5, 1.0f);
  const Array<float> weighted = {0.5f, 1.0f, 1.0f, 0.25f, 0.0f};
  struct Anchor {
    const Array<float>& scale;
    std::vector<double> picks;
    std::vector<double> scores;
  };
  // Weighted: gains 1/4, 1, 1, 1/16, 0; then 0, -, 3/4, 15/256, 0; then those of row 3 are
  // 15/256 - (3/16 - 1/32)^2 / (3/4) = 5/192; then rows 0 and 4 are left, and 4 has the farther pick.
  const Anchor anchors[] = {{scale, {0, 4, 3, 2, 1}, {1, 1, 0.9375, 1.0 / 3.0, 1}},
                            {weighted, {1, 2, 3, 4, 0}, {1, 0.75, 5.0 / 192.0, 0, 1}}};
  for (const Anchor& anchor : anchors) {
    const Tensor state(Dtype::kF32, 6, 5);
    Array<double> gain(5);
    GreedyProblem p;
    p.gram = gram.matrix();
    p.scale = anchor.scale.data();
    p.gain = gain.data();
    p.state = state.matrix();
    p.count = 5;
    Array<int32_t> done = {0};
    const Tensor out(Dtype::kI32, 1, 5);
    const Tensor scores(Dtype::kF32, 1, 5);
    const GreedyPickArgs args{out.matrix(), scores.matrix(), &p, done.data(), GreedyRule::kDeterminant};
    s.expect_values(&KernelTable::greedy_pick, out, args, anchor.picks);
    done[0] = 0;
    s.expect_values(&KernelTable::greedy_pick, scores, args, anchor.scores);
  }
}

void check_determinant(Suite& s) {
  for (const int64_t n : {1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 64, 65, 129, 200}) {
    check_case(s, {n, n, n});          // all picks gain
    check_case(s, {n, n / 4 + 1, n});  // fewer gain than are picked, all are
    check_case(s, {n, 5, n / 2 + 1, Rows::kSomeZero});
    check_case(s, {n, n, n / 2 + 1, Rows::kRepeated});
    check_case(s, {n, n, n, Rows::kRepeated, false});
    check_case(s, {n, 6, n, Rows::kOneHot, n % 2 == 0});
  }
  check_case(s, {530, 262, 262});   // worth several threads; more picks than a block stages at once
  check_case(s, {1100, 262, 262});  // likewise, and more rows than a block has threads
  check_case(s, {1024, 20, 24});
  check_case(s, {1025, 20, 24, Rows::kRepeated});
  if (s.begin_case("determinant, nothing but zeros")) {
    Picking picking;
    picking.add(s, {37, 4, 11});
    std::fill_n(picking.scenes[0].scale.f32(0), 37, 0.0f);
    compare_picking(s, picking, 11);
  }
  if (s.begin_case("determinant, problems of many sizes")) {
    Picking picking;
    for (int64_t i = 0; i < 53; ++i) picking.add(s, {3 + i % 7, 2 + i % 3, 1 + i % 3});
    picking.add(s, {1300, 12, 14});
    picking.add(s, {600, 12, 20, Rows::kSomeZero});
    picking.add(s, {5, 5, 0});
    picking.add(s, {1029, 9, 12, Rows::kOneHot});
    compare_picking(s, picking, 20);
  }
  if (s.begin_case("determinant, missing rows")) check_missing_rows(s, {41, 30, 23}, true);
  if (s.begin_case("determinant, missing rows, all picked")) check_missing_rows(s, {19, 7, 19}, true);
  const Case wide[] = {{1500, 6, 10, Rows::kSomeZero}, {12001, 6, 7}, {66000, 3, 2}};
  for (const Case& c : wide) {
    if (s.begin_case("determinant n=%d missing rows", static_cast<int>(c.n))) check_missing_rows(s, c, false);
  }
  if (s.begin_case("determinant, bad arguments")) {
    Picking picking;
    picking.add(s, {5, 5, 3});
    const Tensor out(Dtype::kI32, 1, 3);
    for (int kind = 0; kind < 6; ++kind) {
      GreedyPickArgs bad = picking.args(out.matrix(), Matrix{});
      GreedyProblem p = picking.problems[0];
      bad.problems = &p;
      if (kind == 0) p.state.rows = 3;
      if (kind == 1) p.state.cols = 4;
      if (kind == 2) p.scale = nullptr;
      if (kind == 3) p.gain = nullptr;
      if (kind == 4) p.gain = reinterpret_cast<double*>(reinterpret_cast<char*>(p.gain) + 4);
      if (kind == 5) p.count = 4;
      s.expect_rejected(&KernelTable::greedy_pick, out, bad);
    }
    const Array<int32_t> beyond = {0, 1, 2, 3, 5};
    picking.problems[0].slot = beyond.data();
    s.expect_contents_rejected(&KernelTable::greedy_pick, out, picking.args(out.matrix(), Matrix{}), -1);
  }
}

}  // namespace trimtok::parity
