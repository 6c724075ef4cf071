#include "engine/prune/scene.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "trimtok/quant_blocks.h"

namespace trimtok {
namespace {

void check_matrix(const ConstMatrix& m, int64_t width, const char* what, size_t k) {
  if (m.dtype != Dtype::kF32 && m.dtype != Dtype::kF16) {
    fail(ErrorCode::kInvalidArgument, "[pruning] %s %zu is %s, must be float32 or float16", what, k,
         dtype_info(m.dtype)->name);
  }
  if (m.cols != width) {
    fail(ErrorCode::kInvalidArgument,
         "[pruning] %s %zu has %lld columns, must have %lld as the first picture", what, k,
         static_cast<long long>(m.cols), static_cast<long long>(width));
  }
}

// The first row with a NaN or an infinity, -1 when there is none.
int64_t first_bad_row(Backend& backend, const ConstMatrix& rows) {
  Buffer copy;
  const ConstMatrix m = backend.read(rows, copy);
  for (int64_t r = 0; r < m.rows; ++r) {
    const auto* p = static_cast<const std::byte*>(m.data) + r * m.stride;
    bool finite = true;
    for (int64_t c = 0; c < m.cols; ++c) {
      finite &= m.dtype == Dtype::kF16 ? (reinterpret_cast<const F16Bits*>(p)[c] & 0x7c00u) != 0x7c00u
                                       : std::isfinite(reinterpret_cast<const float*>(p)[c]);
    }
    if (!finite) return r;
  }
  return -1;
}

[[noreturn]] void fail_row(const std::string& whose, int64_t row) {
  fail(ErrorCode::kNumerics,
       "[pruning] %s row %lld holds a NaN, an infinity or numbers whose norm is beyond float32",
       whose.c_str(), static_cast<long long>(row));
}

}  // namespace

ConstMatrix Scene::unit_rows(size_t k) const {
  return row_range(unit, begin[k], sizes[k]);
}

Scene describe(Backend& backend, const PruneInput& input) {
  Scene scene;
  scene.input = &input;
  scene.n_pictures = static_cast<int64_t>(input.rows.size());
  scene.begin.push_back(0);
  for (size_t k = 0; k < input.rows.size(); ++k) {
    const ConstMatrix& rows = input.rows[k];
    if (k == 0) scene.width = rows.cols;
    check_matrix(rows, scene.width, "picture", k);
    if (rows.rows > 0 && rows.cols == 0) {
      fail(ErrorCode::kInvalidArgument, "[pruning] picture %zu has rows without columns", k);
    }
    scene.n_rows += rows.rows;
    if (scene.n_rows > std::numeric_limits<int32_t>::max()) {
      fail(ErrorCode::kInvalidArgument, "[pruning] more than %d rows", std::numeric_limits<int32_t>::max());
    }
    scene.n_nonempty += rows.rows > 0 ? 1 : 0;
    scene.sizes.push_back(static_cast<int32_t>(rows.rows));
    scene.begin.push_back(static_cast<int32_t>(scene.n_rows));
  }
  if (input.text.rows > 0 && scene.n_pictures > 0) check_matrix(input.text, scene.width, "text", 0);
  if (const int64_t bad = first_bad_row(backend, input.text); bad >= 0) fail_row("text", bad);
  if (!input.grids.empty() && input.grids.size() != input.rows.size()) {
    fail(ErrorCode::kInvalidArgument, "[pruning] %zu grids for %zu pictures, must be one each",
         input.grids.size(), input.rows.size());
  }
  if (!input.pooled_rows.empty() && input.pooled_rows.size() != input.rows.size()) {
    fail(ErrorCode::kInvalidArgument, "[pruning] %zu matrices to pool for %zu pictures, must be one each",
         input.pooled_rows.size(), input.rows.size());
  }
  for (size_t k = 0; k < input.pooled_rows.size(); ++k) {
    if (input.pooled_rows[k].rows == input.rows[k].rows) continue;
    fail(ErrorCode::kInvalidArgument, "[pruning] picture %zu has %lld rows to pool, must have %lld", k,
         static_cast<long long>(input.pooled_rows[k].rows), static_cast<long long>(input.rows[k].rows));
  }
  return scene;
}

void check_finite(Backend& backend, const PruneInput& input) {
  for (size_t k = 0; k < input.rows.size(); ++k) {
    const int64_t bad = first_bad_row(backend, input.rows[k]);
    if (bad >= 0) fail_row("picture " + std::to_string(k) + ",", bad);
  }
}

void prepare(Backend& backend, const RunControl& control, Scene& scene) {
  scene.unit = backend.arena().matrix(scene.n_rows, scene.width);
  scene.norms.resize(static_cast<size_t>(scene.n_rows));
  scene.picture.resize(static_cast<size_t>(scene.n_rows));
  for (size_t k = 0; k < scene.sizes.size(); ++k) {
    control.step("prune", static_cast<int64_t>(k), scene.n_pictures);
    if (scene.sizes[k] == 0) continue;
    const Arena::Mark mark(backend.arena());
    const Matrix out = row_range(scene.unit, scene.begin[k], scene.sizes[k]);
    const std::span<float> norms(scene.norms.data() + scene.begin[k], static_cast<size_t>(scene.sizes[k]));
    float* norms_out = backend.output(norms);
    backend.unit_rows({out, scene.input->rows[k], norms_out}, "pruning");
    backend.fetch(norms, norms_out);
    for (int32_t i = 0; i < scene.sizes[k]; ++i) {
      if (std::isfinite(norms[static_cast<size_t>(i)])) continue;
      fail_row("picture " + std::to_string(k) + ",", i);
    }
    std::fill_n(scene.picture.begin() + scene.begin[k], scene.sizes[k], static_cast<int32_t>(k));
  }
  scene.sums = backend.arena().matrix(scene.n_pictures, scene.width);
  const Arena::Mark mark(backend.arena());
  backend.sum_rows({scene.sums, scene.unit, nullptr, backend.upload(std::span<const int32_t>(scene.begin))},
                   "pruning");
}

std::vector<float> project(Backend& backend, const ConstMatrix& y, const ConstMatrix& v) {
  std::vector<float> out(static_cast<size_t>(y.rows));
  if (out.empty()) return out;
  const Arena::Mark mark(backend.arena());
  const Matrix host = {out.data(), Dtype::kF32, 1, y.rows, row_bytes(Dtype::kF32, y.rows)};
  MatmulArgs args;
  args.out = backend.output(host);
  args.x = v;
  args.w = y;
  backend.matmul(args, "pruning");
  backend.fetch(host, args.out);
  return out;
}

Matrix project_in_arena(Backend& backend, const ConstMatrix& y, const ConstMatrix& v) {
  MatmulArgs args;
  args.out = backend.arena().matrix(1, y.rows);
  args.x = v;
  args.w = y;
  if (y.rows > 0) backend.matmul(args, "pruning");
  return args.out;
}

std::vector<std::vector<int32_t>> split_by_picture(const Scene& scene, std::span<const int32_t> rows) {
  std::vector<std::vector<int32_t>> kept(scene.sizes.size());
  for (const int32_t i : rows) {
    const auto k = static_cast<size_t>(scene.picture[static_cast<size_t>(i)]);
    kept[k].push_back(i - scene.begin[k]);
  }
  for (std::vector<int32_t>& list : kept) std::sort(list.begin(), list.end());
  return kept;
}

}  // namespace trimtok
