// Cases of the ops that select visual tokens. Selections are compared exactly, so their matrices hold
// multiples of a power of two: every sum is exact in f32, near ties do not exist and true ties abound.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness.h"
#include "picks.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::parity {
namespace {

constexpr Dtype kF32 = Dtype::kF32;

struct Shape {
  int64_t rows;
  int64_t cols;
};

Tensor random_tensor(Suite& s, int64_t rows, int64_t cols, float scale = 1.0f, Dtype dtype = kF32) {
  Tensor t(dtype, rows, cols, s.next_layout());
  t.fill_normal(s.rng(), scale);
  return t;
}

Tensor zeros(Suite& s, int64_t rows, int64_t cols) {
  Tensor t(kF32, rows, cols, s.next_layout());
  for (int64_t r = 0; r < rows; ++r) std::fill_n(t.f32(r), cols, 0.0f);
  return t;
}

Tensor literal(int64_t rows, int64_t cols, const std::vector<float>& values) {
  Tensor t(kF32, rows, cols, Layout{1, 3, false});
  for (int64_t i = 0; i < rows * cols; ++i) t.f32(i / cols)[i % cols] = values[static_cast<size_t>(i)];
  return t;
}

double row_norm(const Tensor& x, int64_t r) {
  double squares = 0.0;
  for (const float v : x.values(r)) squares += static_cast<double>(v) * v;
  return std::sqrt(squares);
}

// Symmetric, ones on the diagonal, multiples of `quantum` in between.
Tensor similarity_matrix(Suite& s, int64_t n, float quantum) {
  Tensor t(kF32, n, n, s.next_layout());
  const int32_t steps = static_cast<int32_t>(1.0f / quantum);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      t.f32(i)[j] = t.f32(j)[i] = quantum * static_cast<float>(s.rng().below(2 * steps) - steps / 2);
    }
    t.f32(i)[i] = 1.0f;
  }
  return t;
}

// Problems of one call, with fresh state for every run.
struct Picking {
  GreedyRule rule = GreedyRule::kMaxMin;
  std::vector<Tensor> grams;
  std::vector<Tensor> totals;
  std::vector<Tensor> states;
  std::vector<GreedyProblem> problems;
  Array<int32_t> done;

  void add(Suite& s, int64_t n, int64_t count, float quantum) {
    grams.push_back(similarity_matrix(s, n, quantum));
    Tensor total(kF32, 1, n, s.next_layout());
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0.0;
      for (int64_t j = 0; j < n; ++j) sum += grams.back().f32(i)[j];
      total.f32(0)[i] = static_cast<float>(sum);
    }
    totals.push_back(std::move(total));
    states.emplace_back(kF32, rule == GreedyRule::kFacility ? 3 : 1, n, s.next_layout());
    GreedyProblem p;
    p.gram = grams.back().matrix();
    p.total = totals.back().f32(0);
    p.state = states.back().matrix();
    p.count = static_cast<int32_t>(count);
    problems.push_back(p);
  }
  GreedyPickArgs args(const Matrix& out, const Matrix& scores) {
    done.assign(problems.size(), 0);
    for (const Tensor& state : states) {
      for (int64_t r = 0; r < state.rows(); ++r) std::memset(state.row(r), 0xff, 4 * state.cols());
    }
    return {out, scores, problems.data(), done.data(), rule};
  }
};

// Rows of the matrix arrive one by one in random order: the picks must be those of the whole matrix.
void check_missing_rows(Suite& s, GreedyRule rule, int64_t n, int64_t count) {
  Picking picking;
  picking.rule = rule;
  picking.add(s, n, count, 0.25f);
  const Tensor expected(Dtype::kI32, 1, count);
  const Tensor scores(kF32, 1, count);
  const KernelTable& ref = *cpu_table(Isa::kRef);
  const Execution ref_execution(Execution::Threads::kNone, 1, 1);
  ref.greedy_pick(ref_execution.context(), picking.args(expected.matrix(), scores.matrix()));

  const Tensor actual(Dtype::kI32, 1, count);
  const Tensor rows(kF32, n, n);
  Array<int32_t> slot(static_cast<size_t>(n), -1);
  std::vector<int32_t> missing;
  for (int32_t i = 0; i < n; ++i) missing.push_back(i);
  picking.problems[0].slot = slot.data();
  picking.problems[0].gram = rows.matrix();
  const GreedyPickArgs args = picking.args(actual.matrix(), Matrix{});
  for (int32_t used = 0; picking.done[0] < count; ++used) {
    if (s.run(&KernelTable::greedy_pick, args) != Status::kOk || used > n) {
      return s.expect(false, "the picks do not finish although every row is there");
    }
    if (missing.empty()) continue;
    const auto at = static_cast<size_t>(s.rng().below(static_cast<int32_t>(missing.size())));
    const int32_t i = missing[at];
    missing.erase(missing.begin() + static_cast<std::ptrdiff_t>(at));
    slot[static_cast<size_t>(i)] = used;
    std::copy_n(picking.grams[0].f32(i), n, rows.f32(used));
  }
  s.expect(actual.same_bytes(expected), "other picks than with the whole matrix");
}

// More rows than any fast memory holds; the matrix has only the `n_rows` rows that are picked.
void check_wide(Suite& s, GreedyRule rule, int64_t n, int32_t n_rows, int32_t count) {
  const Tensor gram(kF32, n_rows, n, s.next_layout());
  Tensor total(kF32, 1, n);
  for (int64_t i = 0; i < n; ++i) {
    for (int32_t r = 0; r < n_rows; ++r)
      gram.f32(r)[i] = 0.25f * static_cast<float>(s.rng().below(512) - 256);
    total.f32(0)[i] = 0.5f * static_cast<float>(s.rng().below(512));
  }
  Array<int32_t> slot(static_cast<size_t>(n), -1);
  Picking picking;
  picking.rule = rule;
  picking.states.emplace_back(kF32, 1, n, s.next_layout());
  GreedyProblem p;
  p.gram = gram.matrix();
  p.slot = slot.data();
  p.total = total.f32(0);
  p.state = picking.states[0].matrix();
  p.count = count;
  picking.problems.push_back(p);
  // By the reference: whichever row it waits for gets the next row of the matrix.
  const Tensor picks(Dtype::kI32, 1, p.count);
  const float* worth = total.f32(0);
  for (int32_t r = 0; r < n_rows; ++r) {
    slot[static_cast<size_t>(std::min_element(worth, worth + n) - worth)] = r;
    const Execution execution(Execution::Threads::kNone, 1, 1);
    (void)ref::greedy_pick(execution.context(), picking.args(picks.matrix(), Matrix{}));
    s.expect(picking.done[0] == r + 1, "the reference does not stop at the missing row");
    worth = picking.states[0].f32(0);
  }
  // Rows that arrive one after the other, the state kept in between.
  const Tensor resumed(Dtype::kI32, 1, p.count);
  Array<int32_t> known(static_cast<size_t>(n), -1);
  picking.problems[0].slot = known.data();
  const GreedyPickArgs args = picking.args(resumed.matrix(), Matrix{});
  const auto* expected = reinterpret_cast<const int32_t*>(picks.row(0));
  for (int32_t r = 0; r < n_rows; ++r) {
    known[static_cast<size_t>(expected[r])] = r;
    s.expect(s.run(&KernelTable::greedy_pick, args) == Status::kOk && picking.done[0] == r + 1,
             "does not go on when a row arrives");
  }
  s.expect(std::memcmp(resumed.row(0), expected, 4 * static_cast<size_t>(n_rows)) == 0,
           "other picks than with all rows at once");
  // Beside narrow ones: one that starts at a given row, one that is told to stop after the first pick.
  picking.problems[0].slot = slot.data();
  picking.add(s, 40, 9, 0.25f);
  for (const float stop_at : {3.4e38f, -1e6f}) {
    picking.states.emplace_back(kF32, 1, n, s.next_layout());
    p.state = picking.states.back().matrix();
    p.first = expected[0];  // whose next pick is there, too
    p.total = nullptr;
    p.stop_at = stop_at;
    picking.problems.push_back(p);
  }
  picking.add(s, 7, 7, 0.25f);
  compare_picks(s, picking, std::max(count, 9));
}

}  // namespace

void prune_anchors(Suite& s, Op op) {
  if (op == Op::k_unit_rows) {
    const Tensor x = literal(3, 2, {3, -4, 0, 0, 0.5f, 0});
    const Tensor out(kF32, 3, 2);
    s.expect_values(&KernelTable::unit_rows, out, UnitRowsArgs{out.matrix(), x.matrix(), nullptr},
                    {0.6, -0.8, 0, 0, 1, 0});
  } else if (op == Op::k_sum_rows) {
    const Tensor x = literal(3, 2, {1, 2, 3, 4, 5, 6});
    const Array<float> weight = {1.0f, -2.0f, 0.5f};
    const Array<int32_t> begin = {0, 2, 2, 3};
    const Tensor out(kF32, 3, 2);
    s.expect_values(&KernelTable::sum_rows, out,
                    SumRowsArgs{out.matrix(), x.matrix(), weight.data(), begin.data()},
                    {-5, -6, 0, 0, 2.5, 3});
  } else if (op == Op::k_gram) {
    const Tensor x = literal(3, 2, {1, 2, 3, -1, 0, 5});
    const Tensor out = literal(3, 3, {9, 9, 9, 9, 9, 9, 9, 9, 9});
    s.expect_values(&KernelTable::gram, out, GramArgs{out.matrix(), x.matrix(), 0, 1},
                    {5, 1, 10, 1, 9, 9, 10, 9, 9});
    s.expect_values(&KernelTable::gram, out, GramArgs{out.matrix(), x.matrix(), 1, 3},
                    {5, 1, 10, 1, 10, -5, 10, -5, 25});
  } else {
    // Rows 0 and 1 are alike, 2 and 3 fairly, 4 is alone. Worked out by hand.
    const Tensor gram = literal(5, 5, {1,     1, 0.5f,  0.25f, 0,     1, 1, 0.5f, 0.25f, 0, 0.5f, 0.5f, 1,
                                       0.75f, 0, 0.25f, 0.25f, 0.75f, 1, 0, 0,    0,     0, 0,    1});
    const Array<float> total = {2.75f, 2.75f, 2.75f, 2.25f, 1.0f};
    const std::vector<double> expected[] = {{4, 0, 3}, {4, 0, 3}, {0, 2, 4}};
    for (const GreedyRule rule : {GreedyRule::kMaxSum, GreedyRule::kMaxMin, GreedyRule::kFacility}) {
      const Tensor state(kF32, rule == GreedyRule::kFacility ? 3 : 1, 5);
      GreedyProblem p;
      p.gram = gram.matrix();
      p.total = total.data();
      p.state = state.matrix();
      p.count = 3;
      Array<int32_t> done = {0};
      const Tensor out(Dtype::kI32, 1, 3);
      s.expect_values(&KernelTable::greedy_pick, out,
                      GreedyPickArgs{out.matrix(), Matrix{}, &p, done.data(), rule},
                      expected[static_cast<int32_t>(rule)]);
    }
    determinant_anchors(s);
  }
}

void check_unit_rows(Suite& s) {
  const Shape shapes[] = {{0, 8},   {3, 0},     {1, 1},    {2, 7},    {3, 8},   {3, 15},
                          {2, 16},  {5, 17},    {3, 33},   {2, 63},   {67, 64}, {3, 65},
                          {3, 129}, {129, 257}, {3, 1024}, {2, 2048}, {2, 4097}};
  int variant = 0;
  for (const Shape& shape : shapes) {
    for (const float scale : {1.0f, 1e-30f, 1e25f, 6e-5f}) {
      const bool half = variant % 3 == 1 && scale <= 1.0f && scale > 1e-6f;
      const bool in_place = !half && variant % 3 == 2;
      ++variant;
      if (!s.begin_case("T=%d D=%d scale=%g half=%d in_place=%d", static_cast<int>(shape.rows),
                        static_cast<int>(shape.cols), static_cast<double>(scale), half, in_place)) {
        continue;
      }
      const Tensor x = random_tensor(s, shape.rows, shape.cols, scale, half ? Dtype::kF16 : kF32);
      if (shape.rows > 2 && shape.cols > 0) std::memset(x.row(1), 0, (half ? 2 : 4) * shape.cols);
      Tensor out(kF32, shape.rows, shape.cols, s.next_layout());
      if (in_place) {
        for (int64_t r = 0; r < shape.rows; ++r) std::copy_n(x.f32(r), shape.cols, out.f32(r));
      }
      const auto allowed = [&s](int64_t, int64_t, double expected) {
        return s.tolerance() * std::fabs(expected);
      };
      s.compare<UnitRowsArgs>(
          &KernelTable::unit_rows, out,
          [&](const Matrix& m) {
            return UnitRowsArgs{m, in_place ? ConstMatrix(m) : ConstMatrix(x.matrix()), nullptr};
          },
          allowed);
      const Tensor norms(kF32, 1, shape.rows, s.next_layout());
      const Tensor rows(kF32, shape.rows, shape.cols);
      s.compare<UnitRowsArgs>(
          &KernelTable::unit_rows, norms,
          [&](const Matrix& m) {
            return UnitRowsArgs{rows.matrix(), x.matrix(), static_cast<float*>(m.data)};
          },
          allowed);
    }
  }
  if (s.begin_case("not finite")) {
    const Tensor x = random_tensor(s, 4, 37);
    x.f32(0)[36] = NAN;
    x.f32(1)[3] = INFINITY;
    std::fill_n(x.f32(2), 37, 3e38f);
    const Tensor norms(kF32, 1, 4);
    const Tensor rows(kF32, 4, 37);
    const Status status =
        s.run(&KernelTable::unit_rows, UnitRowsArgs{rows.matrix(), x.matrix(), norms.f32(0)});
    s.expect(status == Status::kOk, "the call failed");
    s.expect(!std::isfinite(norms.f32(0)[0]), "the norm of a row with a NaN is finite");
    s.expect(!std::isfinite(norms.f32(0)[1]), "the norm of a row with an infinity is finite");
    s.expect(!std::isfinite(norms.f32(0)[2]), "a norm beyond f32 is finite");
    s.expect(std::isfinite(norms.f32(0)[3]), "the norm of a sound row is not finite");
  }
  if (s.begin_case("bad arguments")) {
    const Tensor x = random_tensor(s, 3, 8);
    const Tensor out(kF32, 3, 8);
    for (int kind = 0; kind < 3; ++kind) {
      UnitRowsArgs bad{out.matrix(), x.matrix(), nullptr};
      if (kind == 0) bad.x.cols = 7;
      if (kind == 1) bad.x.dtype = Dtype::kBF16;
      if (kind == 2) bad.x.data = nullptr;
      s.expect_rejected(&KernelTable::unit_rows, out, bad);
    }
  }
}

void check_sum_rows(Suite& s) {
  const Shape shapes[] = {{0, 8},    {1, 0},   {1, 1},    {3, 7},     {31, 16},
                          {32, 17},  {33, 31}, {67, 32},  {64, 33},   {65, 64},
                          {129, 65}, {5, 127}, {40, 129}, {577, 257}, {576, 1024}};
  int variant = 0;
  for (const Shape& shape : shapes) {
    for (const bool weighted : {false, true}) {
      const int64_t n_sums = variant++ % 4;
      if (!s.begin_case("T=%d D=%d B=%d weight=%d", static_cast<int>(shape.rows),
                        static_cast<int>(shape.cols), static_cast<int>(n_sums), weighted)) {
        continue;
      }
      const Tensor x = random_tensor(s, shape.rows, shape.cols);
      const Tensor weight = random_tensor(s, 1, shape.rows);
      Array<int32_t> begin;
      for (int64_t b = 0; b <= n_sums; ++b) {
        begin.push_back(s.rng().below(static_cast<int32_t>(shape.rows) + 1));
      }
      std::sort(begin.begin(), begin.end());
      const Tensor out(kF32, n_sums, shape.cols, s.next_layout());
      s.compare<SumRowsArgs>(
          &KernelTable::sum_rows, out,
          [&](const Matrix& m) {
            return SumRowsArgs{m, x.matrix(), weighted ? weight.f32(0) : nullptr, begin.data()};
          },
          [&](int64_t b, int64_t c, double) {
            double sum = 0.0;
            for (int64_t t = begin[static_cast<size_t>(b)]; t < begin[static_cast<size_t>(b) + 1]; ++t) {
              sum += std::fabs(static_cast<double>(x.f32(t)[c]) * (weighted ? weight.f32(0)[t] : 1.0f));
            }
            return s.tolerance() * sum;
          });
    }
  }
  if (s.begin_case("bad arguments")) {
    const Tensor x = random_tensor(s, 3, 8);
    const Tensor out(kF32, 2, 8);
    const SumRowsArgs bad{out.matrix(), x.matrix(), nullptr, nullptr};
    s.expect_rejected(&KernelTable::sum_rows, out, bad);
    const Array<int32_t> wrong[] = {{-1, 2, 3}, {0, 2, 1}, {0, 2, 4}, {0, 0x7fffffff, 3}};
    for (const Array<int32_t>& begin : wrong) {
      s.expect_contents_rejected(&KernelTable::sum_rows, out,
                                 SumRowsArgs{out.matrix(), x.matrix(), nullptr, begin.data()},
                                 &begin == wrong ? 0 : 1);
    }
  }
}

// Outliers in some columns, as towers make them; rows of very different lengths. Against outliers the bodies
// in f32 have no margin: what comes behind them is added to a large sum.
void distort_rows(Tensor& x, int kind) {
  for (int64_t r = 0; r < x.rows(); ++r) {
    for (int64_t c = 0; c < x.cols(); ++c) {
      if (kind == 1 && c % 97 == 3) x.f32(r)[c] *= 30.0f;
      if (kind == 2) x.f32(r)[c] *= std::pow(10.0f, static_cast<float>(r % 9 - 4));
    }
  }
}

void check_gram(Suite& s) {
  const Shape shapes[] = {{0, 8},     {3, 0},    {1, 1},    {2, 7},    {5, 16},   {6, 17},
                          {7, 33},    {13, 31},  {14, 64},  {15, 255}, {16, 256}, {17, 257},
                          {29, 100},  {31, 512}, {32, 513}, {33, 40},  {47, 64},  {65, 33},
                          {97, 1024}, {129, 65}, {200, 19}, {531, 48}, {35, 4096}};
  for (const Shape& shape : shapes) {
    for (int part = 0; part < 3; ++part) {  // all rows, from the middle on, an inner piece
      const int64_t first = part == 0 ? 0 : shape.rows / 3;
      const int64_t last = part == 2 ? shape.rows / 3 + shape.rows / 2 : shape.rows;
      if (!s.begin_case("T=%d D=%d rows %d to %d", static_cast<int>(shape.rows), static_cast<int>(shape.cols),
                        static_cast<int>(first), static_cast<int>(last))) {
        continue;
      }
      Tensor x = random_tensor(s, shape.rows, shape.cols);
      if (part != 1 || on_device(s.table())) distort_rows(x, part);
      std::vector<double> norms;
      for (int64_t r = 0; r < shape.rows; ++r) norms.push_back(row_norm(x, r));
      const double growth = 1.0 + std::sqrt(static_cast<double>(shape.cols)) / 4.0;
      const Tensor out = zeros(s, shape.rows, shape.rows);
      s.compare<GramArgs>(
          &KernelTable::gram, out,
          [&](const Matrix& m) {
            return GramArgs{m, x.matrix(), first, last};
          },
          [&](int64_t i, int64_t j, double) {
            return s.tolerance() * norms[static_cast<size_t>(i)] * norms[static_cast<size_t>(j)] * growth;
          });
      (void)s.run(&KernelTable::gram, GramArgs{out.matrix(), x.matrix(), first, last},
                  Execution::Threads::kSimulated, 3);
      bool symmetric = true;
      for (int64_t i = 0; i < shape.rows; ++i) {
        for (int64_t j = 0; j < i; ++j) symmetric &= out.f32(i)[j] == out.f32(j)[i];
      }
      s.expect(symmetric, "the matrix is not symmetric to the bit");
    }
  }
  if (s.begin_case("a NaN in x")) {  // its row and its column, no other
    Tensor x = random_tensor(s, 70, 40);
    x.f32(67)[21] = NAN;
    const Tensor out = zeros(s, 70, 70);
    s.compare<GramArgs>(
        &KernelTable::gram, out,
        [&](const Matrix& m) {
          return GramArgs{m, x.matrix(), 0, 70};
        },
        [&](int64_t i, int64_t j, double) { return 3.0 * s.tolerance() * row_norm(x, i) * row_norm(x, j); },
        true);
  }
  if (s.begin_case("bad arguments")) {
    const Tensor x = random_tensor(s, 3, 8);
    const Tensor out(kF32, 3, 3);
    for (int kind = 0; kind < 4; ++kind) {
      GramArgs bad{out.matrix(), x.matrix(), 0, 3};
      if (kind == 0) bad.out.cols = 2;
      if (kind == 1) bad.last = 4;
      if (kind == 2) bad.first = -1;
      if (kind == 3) bad.x.dtype = Dtype::kF16;
      s.expect_rejected(&KernelTable::gram, out, bad);
    }
  }
}

void check_greedy_pick(Suite& s) {
  const int64_t sizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 129, 200};
  for (const GreedyRule rule : {GreedyRule::kMaxSum, GreedyRule::kMaxMin, GreedyRule::kFacility}) {
    const int name = static_cast<int>(rule);
    for (const int64_t n : sizes) {
      for (const float quantum : {0.5f, 0x1p-9f}) {
        if (!s.begin_case("rule=%d n=%d quantum=%g", name, static_cast<int>(n),
                          static_cast<double>(quantum))) {
          continue;
        }
        Picking picking;
        picking.rule = rule;
        picking.add(s, n, n, quantum);
        picking.add(s, n / 2 + 1, n / 3, quantum);
        picking.add(s, n, (n + 1) / 2, quantum);
        picking.problems[2].first = static_cast<int32_t>(n - 1);
        picking.problems[2].total = nullptr;
        if (rule == GreedyRule::kMaxMin) picking.problems[0].stop_at = 0.5f;
        compare_picks(s, picking, n);
      }
    }
    if (s.begin_case("rule=%d missing rows", name)) check_missing_rows(s, rule, 41, 23);
    if (s.begin_case("rule=%d many problems", name)) {
      Picking picking;
      picking.rule = rule;
      for (int64_t i = 0; i < 53; ++i) picking.add(s, 3 + i % 7, 1 + i % 3, 0.25f);
      compare_picks(s, picking, 3);
    }
    for (const int32_t count : {7, 300}) {  // of few picks and of many, which devices treat apart
      if (rule == GreedyRule::kFacility) continue;
      if (s.begin_case("rule=%d n=12001 count=%d", name, count)) check_wide(s, rule, 12001, 5, count);
    }
    if (s.begin_case("rule=%d missing rows, all picked", name)) check_missing_rows(s, rule, 19, 19);
  }
  check_determinant(s);
  if (s.begin_case("bad arguments")) {
    Picking picking;
    picking.add(s, 5, 3, 0.25f);
    const Tensor out(Dtype::kI32, 1, 3);
    const Array<int32_t> beyond = {0, 1, 2, 3, 5};
    for (int kind = 0; kind < 8; ++kind) {
      GreedyPickArgs bad = picking.args(out.matrix(), Matrix{});
      GreedyProblem p = picking.problems[0];
      bad.problems = &p;
      if (kind == 0) p.count = 4;
      if (kind == 1) p.first = 5;
      if (kind == 2) p.total = nullptr;
      if (kind == 3) p.slot = beyond.data();
      if (kind == 4) p.state.cols = 4;
      if (kind == 5) picking.done[0] = 4;
      if (kind == 6) bad.out.dtype = kF32;
      if (kind == 7) bad.rule = static_cast<GreedyRule>(4);
      if (kind == 3 || kind == 5) {
        s.expect_contents_rejected(&KernelTable::greedy_pick, out, bad, -1);
      } else {
        s.expect_rejected(&KernelTable::greedy_pick, out, bad);
      }
    }
  }
}

}  // namespace trimtok::parity
