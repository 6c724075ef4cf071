#include "engine/prune/measures.h"

#include <algorithm>
#include <cmath>

namespace trimtok {
namespace {

double square_norm(const float* v, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(v[i]) * v[i];
  return sum;
}

// sums: scene.sums for the host.
double intra(const Scene& scene, const ConstMatrix& sums, size_t k) {
  const double m = scene.sizes[k];
  if (m < 2.0) return 0.0;
  const float* norms = scene.norms.data() + scene.begin[k];
  const auto zero = std::count(norms, norms + scene.sizes[k], 0.0f);
  const double squares = square_norm(row_of(sums, static_cast<int64_t>(k)), scene.width);
  const double non_zero = m - static_cast<double>(zero);
  return std::clamp(1.0 - (squares - non_zero) / (m * (m - 1.0)), 0.0, 2.0);
}

// Directions of the mean rows of the non-empty pictures, in double: there are few.
std::vector<std::vector<double>> centroids(Backend& backend, const Scene& scene) {
  // The rows as they came, but for one factor per picture that keeps their sum in range.
  std::vector<float> weights(scene.norms.size());
  for (size_t k = 0; k < scene.sizes.size(); ++k) {
    const auto first = static_cast<size_t>(scene.begin[k]);
    const auto last = static_cast<size_t>(scene.begin[k + 1]);
    float largest = 0.0f;
    for (size_t i = first; i < last; ++i) largest = std::max(largest, scene.norms[i]);
    for (size_t i = first; i < last; ++i) weights[i] = largest > 0.0f ? scene.norms[i] / largest : 0.0f;
  }
  const Arena::Mark mark(backend.arena());
  const Matrix sums = backend.arena().matrix(scene.n_pictures, scene.width);
  backend.sum_rows({sums, scene.unit, backend.upload(std::span<const float>(weights)),
                    backend.upload(std::span<const int32_t>(scene.begin))},
                   "pruning");
  Buffer copy;
  const ConstMatrix host_sums = backend.read(sums, copy);
  std::vector<std::vector<double>> result;
  for (int64_t k = 0; k < scene.n_pictures; ++k) {
    if (scene.sizes[static_cast<size_t>(k)] == 0) continue;
    const float* sum = row_of(host_sums, k);
    const double norm = std::sqrt(square_norm(sum, scene.width));
    std::vector<double> u(sum, sum + scene.width);
    for (double& v : u) v = norm > 0.0 ? v / norm : 0.0;
    result.push_back(std::move(u));
  }
  return result;
}

double centroid_measure(Backend& backend, const Scene& scene, bool consecutive) {
  const std::vector<std::vector<double>> u = centroids(backend, scene);
  const auto n = static_cast<double>(u.size());
  double total = 0.0;
  if (consecutive) {
    for (size_t k = 0; k + 1 < u.size(); ++k) {
      double dot = 0.0;
      for (size_t i = 0; i < u[k].size(); ++i) dot += u[k][i] * u[k + 1][i];
      total += 1.0 - dot;
    }
    return total / (n - 1.0);
  }
  for (size_t i = 0; i < u[0].size(); ++i) {
    double sum = 0.0;
    for (const std::vector<double>& v : u) sum += v[i];
    total += sum * sum;
  }
  return 1.0 - (total - n) / (n * (n - 1.0));
}

double token_measure(const Scene& scene, const ConstMatrix& sums) {
  double own = 0.0;
  double own_pairs = 0.0;
  std::vector<double> all(static_cast<size_t>(scene.width), 0.0);
  for (int64_t k = 0; k < scene.n_pictures; ++k) {
    const float* sum = row_of(sums, k);
    const double m = scene.sizes[static_cast<size_t>(k)];
    own += square_norm(sum, scene.width);
    own_pairs += m * m;
    for (int64_t i = 0; i < scene.width; ++i) all[static_cast<size_t>(i)] += sum[i];
  }
  double squares = 0.0;
  for (const double v : all) squares += v * v;
  const auto n = static_cast<double>(scene.n_rows);
  return 1.0 - (squares - own) / (n * n - own_pairs);
}

}  // namespace

Measures measure(Backend& backend, const Scene& scene, InterMeasure inter) {
  Measures m;
  Buffer copy;
  const ConstMatrix sums = backend.read(scene.sums, copy);
  for (size_t k = 0; k < scene.sizes.size(); ++k) {
    m.d_intra.push_back(intra(scene, sums, k));
    m.d_intra_mean += m.d_intra.back();
  }
  m.d_intra_mean /= static_cast<double>(std::max<int64_t>(scene.n_nonempty, 1));
  if (scene.n_nonempty < 2) return m;
  m.d_inter = inter == InterMeasure::kToken
                  ? token_measure(scene, sums)
                  : centroid_measure(backend, scene, inter == InterMeasure::kSequence);
  m.d_inter = std::clamp(m.d_inter, 0.0, 2.0);
  return m;
}

}  // namespace trimtok
