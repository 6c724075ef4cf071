#include "engine/prune/agreement.h"

#include <cmath>

namespace trimtok {
namespace {

// Mean of the text rows, or of their directions. [1, d] in the arena; absent without text.
Matrix mean_text(Backend& backend, const ConstMatrix& text, bool directions) {
  if (text.rows == 0) return {};
  const Matrix unit = backend.arena().matrix(text.rows, text.cols);
  std::vector<float> norms(static_cast<size_t>(text.rows));
  float* norms_out = backend.output(std::span(norms));
  backend.unit_rows({unit, text, norms_out}, "pruning");
  backend.fetch(std::span(norms), norms_out);
  for (size_t j = 0; j < norms.size(); ++j) {
    if (!std::isfinite(norms[j])) {
      fail(ErrorCode::kNumerics, "[pruning] text row %zu has a norm beyond float32", j);
    }
    if (directions) norms[j] = 1.0f;
    norms[j] /= static_cast<float>(text.rows);
  }
  const Matrix mean = backend.arena().matrix(1, text.cols);
  const int32_t begin[] = {0, static_cast<int32_t>(text.rows)};
  backend.sum_rows({mean, unit, backend.upload(std::span<const float>(norms)),
                    backend.upload(std::span<const int32_t>(begin))},
                   "pruning");
  return mean;
}

}  // namespace

std::vector<double> agreement(Backend& backend, const ConstMatrix& text, Agreement kind, const ConstMatrix& y,
                              std::span<const float> norms) {
  std::vector<double> result(static_cast<size_t>(y.rows), 0.0);
  const Arena::Mark mark(backend.arena());
  const Matrix mean = mean_text(backend, text, kind == Agreement::kCosine);
  if (mean.data == nullptr) return result;
  const std::vector<float> dots = project(backend, y, mean);
  for (size_t i = 0; i < result.size(); ++i) {
    const double norm = norms[i];
    result[i] = kind == Agreement::kCosine ? dots[i] : -(norm * norm - 2.0 * norm * dots[i]);
  }
  return result;
}

std::vector<double> relevance(Backend& backend, const ConstMatrix& text, const ConstMatrix& y) {
  std::vector<double> result(static_cast<size_t>(y.rows), 0.0);
  const Arena::Mark mark(backend.arena());
  const Matrix mean = mean_text(backend, text, false);
  if (mean.data == nullptr) return result;
  Buffer copy;
  const float* numbers = row_of(backend.read(mean, copy), 0);
  double squares = 0.0;
  for (int64_t i = 0; i < mean.cols; ++i) squares += static_cast<double>(numbers[i]) * numbers[i];
  if (!(squares > 0.0)) return result;
  const std::vector<float> dots = project(backend, y, mean);
  for (size_t i = 0; i < result.size(); ++i) result[i] = dots[i] / std::sqrt(squares);
  return result;
}

}  // namespace trimtok
