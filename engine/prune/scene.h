// All rows of one call, checked and prepared once: unit rows of every picture one below the other.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/core/backend.h"
#include "engine/core/row_grid.h"
#include "engine/core/run_control.h"
#include "engine/prune/options.h"

namespace trimtok {

struct PruneInput {
  std::vector<ConstMatrix> rows;  // F32 | F16 [m_k, d] each, m_k = 0 allowed
  ConstMatrix text;               // F32 | F16 [M, d] or absent
  // grid_pool only: empty, or the grids of each picture, which must not overlap.
  std::vector<std::vector<RowGrid>> grids;
  // grid_pool only: what is averaged, [m_k, any width], where that is more than `rows`; empty: `rows`.
  std::vector<ConstMatrix> pooled_rows;
};

struct Scene {
  const PruneInput* input = nullptr;
  int64_t n_pictures = 0;
  int64_t n_nonempty = 0;
  int64_t n_rows = 0;            // N
  int64_t width = 0;             // d
  std::vector<int32_t> sizes;    // m_k
  std::vector<int32_t> begin;    // [n + 1]: first row of each picture among all
  std::vector<int32_t> picture;  // [N]: picture of each row
  Matrix unit;                   // [N, d], in the backend's arena; the members below are filled with it
  std::vector<float> norms;      // [N]
  Matrix sums;                   // [n, d]: sum of the unit rows of each picture, in the arena

  ConstMatrix unit_rows(size_t k) const;
};

// Shapes, dtypes and counts, and the text's numbers. Throws kInvalidArgument, and kNumerics naming the text
// row. `input`, whose rows lie in memory of `backend`, must outlive the scene.
Scene describe(Backend& backend, const PruneInput& input);

// Throws kNumerics naming picture and row of a NaN or an infinity: what prepare() finds on its way.
void check_finite(Backend& backend, const PruneInput& input);

// Fills unit, norms and sums. Throws kNumerics naming picture and row of a NaN, an infinity or a norm beyond
// float32.
void prepare(Backend& backend, const RunControl& control, Scene& scene);

// Of a matrix in memory of the host.
inline const float* row_of(const ConstMatrix& m, int64_t r) {
  return reinterpret_cast<const float*>(static_cast<const std::byte*>(m.data) + r * m.stride);
}

// y[i] . v for every row i of y; v: [1, d]. For the host, or [1, y.rows] in the arena for other ops.
std::vector<float> project(Backend& backend, const ConstMatrix& y, const ConstMatrix& v);
Matrix project_in_arena(Backend& backend, const ConstMatrix& y, const ConstMatrix& v);

// Indices among all rows to ascending indices inside each picture.
std::vector<std::vector<int32_t>> split_by_picture(const Scene& scene, std::span<const int32_t> rows);

}  // namespace trimtok
