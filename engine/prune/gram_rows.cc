#include "engine/prune/gram_rows.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace trimtok {
namespace {

constexpr int64_t kPage = 256;
// What may pass between two looks at cancel: some 40 ms on two cores, and on a GPU.
constexpr double kStepFlops = 4e9;
constexpr double kDeviceStepFlops = 4e12;

// visit(first, last) for the rows of every picture.
template <typename Visit>
void for_each_picture(std::span<const int32_t> picture, const Visit& visit) {
  const auto n = static_cast<int64_t>(picture.size());
  for (int64_t first = 0; first < n;) {
    int64_t last = first + 1;
    while (last < n && picture[static_cast<size_t>(last)] == picture[static_cast<size_t>(first)]) ++last;
    visit(first, last);
    first = last;
  }
}

Matrix block_of(const Matrix& m, int64_t row, int64_t rows, int64_t col, int64_t cols) {
  const Matrix part = row_range(m, row, rows);
  return {static_cast<float*>(part.data) + col, m.dtype, rows, cols, m.stride};
}

// out = y y^T, times inter_weight between pictures; symmetric to the bit, as y y^T is.
void weighted_gram(Backend& backend, const RunControl& control, const ConstMatrix& y,
                   const Pictures& pictures, const Matrix& out) {
  whole_gram(backend, control, y, out);
  for_each_picture(pictures.of_row, [&](int64_t first, int64_t last) {
    const Arena::Mark mark(backend.arena());
    const int64_t n = last - first;
    std::vector<int32_t> ids(static_cast<size_t>(n));
    std::iota(ids.begin(), ids.end(), 0);
    const Matrix rows = row_range(out, first, n);
    const Matrix shrunk = backend.arena().matrix(n, y.rows);
    backend.gather_rows({shrunk, rows, backend.upload(std::span<const int32_t>(ids)), pictures.inter_weight},
                        "pruning");
    // Back to the left and to the right of the picture's own block.
    const auto copy = [&](int64_t col, int64_t cols) {
      if (cols == 0) return;
      backend.convert_rows({block_of(rows, 0, n, col, cols), block_of(shrunk, 0, n, col, cols)}, "pruning");
    };
    copy(0, first);
    copy(last, y.rows - last);
  });
}

}  // namespace

void whole_gram(Backend& backend, const RunControl& control, const ConstMatrix& y, const Matrix& out) {
  const int64_t n = y.rows;
  const double step_flops = backend.on_host() ? kStepFlops : kDeviceStepFlops;
  for (int64_t first = 0; first < n;) {
    const double row_flops = 2.0 * static_cast<double>(n - first) * static_cast<double>(y.cols);
    const int64_t rows = std::max<int64_t>(64, static_cast<int64_t>(step_flops / row_flops));
    const int64_t last = std::min(n, first + rows);
    backend.gram({out, y, first, last}, "pruning");
    control.step("prune", last, n);
    first = last;
  }
}

void block_gram(Backend& backend, const RunControl& control, const ConstMatrix& x, const ConstMatrix& y,
                const Matrix& out) {
  const double column_flops = 2.0 * static_cast<double>(x.rows) * static_cast<double>(x.cols);
  const int64_t columns =
      std::max<int64_t>(256, static_cast<int64_t>(kStepFlops / std::max(column_flops, 1.0)));
  for (int64_t first = 0; first < y.rows; first += columns) {
    MatmulArgs args;
    args.w = row_range(y, first, std::min(columns, y.rows - first));
    args.x = x;
    args.out = out;
    args.out.data = static_cast<float*>(out.data) + first;
    args.out.cols = args.w.rows;
    backend.matmul(args, "pruning");
    control.step("prune", std::min(first + columns, y.rows), y.rows);
  }
}

std::vector<float> similarity_totals(Backend& backend, const ConstMatrix& y, const Pictures& pictures) {
  const Arena::Mark mark(backend.arena());
  const Matrix sum = backend.arena().matrix(1, y.cols);
  const auto totals = [&](const ConstMatrix& rows) {
    const int32_t begin[] = {0, static_cast<int32_t>(rows.rows)};
    backend.sum_rows({sum, rows, nullptr, backend.upload(std::span<const int32_t>(begin))}, "pruning");
    return project(backend, rows, sum);
  };
  std::vector<float> all = totals(y);
  if (!pictures.weighted()) return all;
  for_each_picture(pictures.of_row, [&](int64_t first, int64_t last) {
    const std::vector<float> own = totals(row_range(y, first, last - first));
    for (int64_t i = first; i < last; ++i) {
      const auto at = static_cast<size_t>(i);
      const float inside = own[static_cast<size_t>(i - first)];
      all[at] = inside + pictures.inter_weight * (all[at] - inside);
    }
  });
  return all;
}

GramRows::GramRows(Backend& backend, const RunControl& control, const ConstMatrix& y,
                   const Pictures& pictures, int64_t max_whole)
    : backend_(backend), control_(control), y_(y), pictures_(pictures) {
  const int64_t n = y.rows;
  if (n <= max_whole) {
    matrix_ = backend.arena().matrix(n, n);
    if (pictures.weighted()) {
      weighted_gram(backend, control, y, pictures, matrix_);
    } else {
      whole_gram(backend, control, y, matrix_);
    }
    return;
  }
  const int64_t pages = std::max<int64_t>(2, max_whole * max_whole / (kPage * n));
  matrix_ = backend.arena().matrix(pages * kPage, n);
  gathered_ = backend.arena().matrix(kPage, y.cols);
  slots_.assign(static_cast<size_t>(n), -1);
  owner_.assign(static_cast<size_t>(pages * kPage), -1);
}

int64_t GramRows::max_whole(const Backend& backend) {
  constexpr size_t kBytes = sizeof(float) * kMaxWholeOnDevice * kMaxWholeOnDevice;
  const bool spare = !backend.on_host() && backend.memory()->available() / 2 >= kBytes;
  return spare ? kMaxWholeOnDevice : kMaxWhole;
}

const float* GramRows::row(int64_t i) {
  return row_of(backend_.read(row_range(matrix_, slot(i), 1), row_), 0);
}

void GramRows::load(int32_t wanted, std::span<const float> worth) {
  if (has(wanted)) return;
  const int64_t base = next_page_ * kPage;
  next_page_ = (next_page_ + 1) % (matrix_.rows / kPage);
  for (int64_t slot = base; slot < base + kPage; ++slot) {
    int32_t& owner = owner_[static_cast<size_t>(slot)];
    if (owner >= 0) slots_[static_cast<size_t>(owner)] = -1;
    owner = -1;
  }
  std::vector<int32_t> chosen;
  for (int32_t i = 0; i < y_.rows; ++i) {
    const bool useful = worth[static_cast<size_t>(i)] > -std::numeric_limits<float>::infinity();
    if (i != wanted && useful && slots_[static_cast<size_t>(i)] < 0) chosen.push_back(i);
  }
  const auto more = std::min(chosen.size(), static_cast<size_t>(kPage - 1));
  std::nth_element(chosen.begin(), chosen.begin() + static_cast<std::ptrdiff_t>(more), chosen.end(),
                   [&](int32_t a, int32_t b) {
                     const float x = worth[static_cast<size_t>(a)];
                     const float y = worth[static_cast<size_t>(b)];
                     return x != y ? x > y : a < b;
                   });
  chosen.resize(more);
  chosen.push_back(wanted);
  std::sort(chosen.begin(), chosen.end());
  const Arena::Mark mark(backend_.arena());
  const Matrix rows = row_range(gathered_, 0, static_cast<int64_t>(chosen.size()));
  const int32_t* ids = backend_.upload(std::span<const int32_t>(chosen));
  const float weight = pictures_.weighted() ? pictures_.inter_weight : 1.0f;
  backend_.gather_rows({rows, y_, ids, weight}, "pruning");
  const Matrix out = row_range(matrix_, base, rows.rows);
  block_gram(backend_, control_, rows, y_, out);
  if (pictures_.weighted()) {
    backend_.gather_rows({rows, y_, ids, 1.0f}, "pruning");
    for_each_picture(pictures_.of_row, [&](int64_t first, int64_t last) {
      const auto from = std::lower_bound(chosen.begin(), chosen.end(), first) - chosen.begin();
      const auto n = std::lower_bound(chosen.begin(), chosen.end(), last) - chosen.begin() - from;
      if (n == 0) return;
      MatmulArgs args;
      args.out = block_of(out, from, n, first, last - first);
      args.x = row_range(rows, from, n);
      args.w = row_range(y_, first, last - first);
      backend_.matmul(args, "pruning");
    });
  }
  for (size_t i = 0; i < chosen.size(); ++i) {
    const auto slot = static_cast<size_t>(base) + i;
    owner_[slot] = chosen[i];
    slots_[static_cast<size_t>(chosen[i])] = static_cast<int32_t>(slot);
  }
}

}  // namespace trimtok
