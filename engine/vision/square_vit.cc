#include "engine/vision/square_vit.h"

#include <algorithm>
#include <numeric>

#include "engine/gguf/quote.h"

namespace trimtok {
namespace {

// Views are encoded together as long as their activations stay below this.
constexpr size_t kGroupBytes = size_t{128} << 20;
constexpr int64_t kMaxGroupViews = 16;
constexpr int64_t kMaxShuffle = 64;

}  // namespace

void SquareVit::bind(WeightBinder& binder, const std::shared_ptr<const GgufFile>& file) {
  const int64_t width = config_.width;
  class_embd_ = binder.optional_vector("v.class_embd", width);
  patch_embd_.weight =
      binder.flattened("v.patch_embd.weight", width, int64_t{3} * config_.patch_size * config_.patch_size);
  patch_embd_.bias = binder.optional_vector("v.patch_embd.bias", width);
  position_embd_ = binder.matrix("v.position_embd.weight", n_tokens(), width);
  layers_ = bind_vit_layers(binder, file, config_, config_.n_layers);
  if (binder.has("v.post_ln.weight")) post_ln_ = bind_norm(binder, "v.post_ln", width);
}

void SquareVit::describe(TowerInfo& info) const {
  info.n_layers = config_.n_layers;
  info.width = config_.width;
  info.patch_size = config_.patch_size;
  info.image_size = config_.image_size;
}

int64_t SquareVit::views_per_group() const {
  // The stream, and twice the features: the projector regroups them.
  const size_t row_bytes =
      3 * static_cast<size_t>(config_.width) * sizeof(float) + vit_scratch_bytes(config_, layers_);
  const size_t view_bytes = row_bytes * static_cast<size_t>(n_tokens());
  return std::clamp<int64_t>(static_cast<int64_t>(kGroupBytes / view_bytes), 1, kMaxGroupViews);
}

// [views * n_tokens, width] = patches . kernel + bias + positions, the class token in row 0 of every view.
Matrix SquareVit::embed(Backend& backend, std::span<const Image> views) const {
  const Matrix x = backend.arena().matrix(static_cast<int64_t>(views.size()) * n_tokens(), config_.width);
  const Arena::Mark mark(backend.arena());
  std::vector<int32_t> ids(static_cast<size_t>(n_tokens()));
  std::iota(ids.begin(), ids.end(), 0);
  const Matrix positions = backend.arena().matrix(n_tokens(), config_.width);
  backend.gather_rows({positions, position_embd_, backend.upload(std::span<const int32_t>(ids))},
                      "vision positions");
  const int64_t n_patches = config_.n_patches();
  const Matrix patches = backend.arena().matrix(n_patches, patch_embd_.weight.cols);
  const auto side = static_cast<size_t>(config_.image_size);
  std::vector<float> pixels(3 * side * side);
  for (size_t v = 0; v < views.size(); ++v) {
    const Matrix tokens = row_slice(x, static_cast<int64_t>(v) * n_tokens(), n_tokens());
    normalise(views[v].view(), config_.mean, config_.std, pixels.data());
    const Arena::Mark view_mark(backend.arena());
    backend.patchify({patches, backend.upload(std::span<const float>(pixels)), 3, config_.image_size,
                      config_.image_size, config_.patch_size},
                     "vision patches");
    backend.matmul({row_slice(tokens, n_class(), n_patches), patches, patch_embd_.weight, patch_embd_.bias,
                    Activation::kNone, row_slice(positions, n_class(), n_patches)},
                   "vision patches");
    if (class_embd_ != nullptr) {
      const ConstMatrix token(class_embd_, Dtype::kF32, 1, config_.width,
                              row_bytes(Dtype::kF32, config_.width));
      backend.add({row_slice(tokens, 0, 1), token, row_slice(positions, 0, 1)}, "vision class token");
    }
  }
  return x;
}

EncodedImage SquareVit::encode(Backend& backend, std::span<const Image> views, const ViewProjector& projector,
                               const RunControl& control) const {
  const auto n_views = static_cast<int64_t>(views.size());
  const int64_t n_patches = config_.n_patches();
  const int64_t stride = row_bytes(Dtype::kF32, projector.n_embd);
  EncodedImage out;
  out.storage = backend.buffer(static_cast<size_t>(n_views * projector.rows_per_view * stride));
  out.rows = {out.storage.data(), Dtype::kF32, n_views * projector.rows_per_view, projector.n_embd, stride};

  const int64_t group = views_per_group();
  const int64_t total = static_cast<int64_t>(layers_.size()) * ((n_views + group - 1) / group);
  int64_t done = 0;
  control.step("encode", done, total);
  for (int64_t first = 0; first < n_views; first += group) {
    const int64_t n = std::min(group, n_views - first);
    const Arena::Mark mark(backend.arena());
    const Matrix x = embed(backend, views.subspan(static_cast<size_t>(first), static_cast<size_t>(n)));
    control.emit(backend, "patch_embd", -1, x);
    // A row sees the rows of its own view.
    std::vector<int32_t> begin(static_cast<size_t>(x.rows)), end(begin.size());
    for (int64_t t = 0; t < x.rows; ++t) {
      const int64_t start = t / n_tokens() * n_tokens();
      begin[static_cast<size_t>(t)] = static_cast<int32_t>(start);
      end[static_cast<size_t>(t)] = static_cast<int32_t>(start + n_tokens());
    }
    const RowIntervals intervals{backend.upload(std::span<const int32_t>(begin)),
                                 backend.upload(std::span<const int32_t>(end))};
    for (size_t i = 0; i < layers_.size(); ++i) {
      const auto index = static_cast<int32_t>(i);
      run_vit_layer(backend, config_, layers_[i], index, x, intervals);
      control.emit(backend, "layer_out", index, x);
      control.step("encode", ++done, total);
    }
    Matrix features = x;
    if (n_class() > 0) {
      features = backend.arena().matrix(n * n_patches, config_.width);
      for (int64_t v = 0; v < n; ++v) {
        backend.convert_rows({row_slice(features, v * n_patches, n_patches),
                              row_slice(x, v * n_tokens() + n_class(), n_patches)},
                             "vision features");
      }
    }
    if (post_ln_.weight != nullptr) {
      apply_norm(backend, config_, post_ln_, features, features, "vision post_ln");
    }
    control.emit(backend, "vision_out", -1, features);
    const Matrix rows = row_slice(out.rows, first * projector.rows_per_view, n * projector.rows_per_view);
    projector.run(backend, features, rows);
    control.emit(backend, "view_rows", -1, rows);
  }
  check_finite_rows(backend, out.rows);
  return out;
}

Matrix pixel_shuffle(Backend& backend, const Matrix& features, int32_t grid, int32_t factor,
                     const char* where) {
  const int64_t cells = grid / factor;
  const int64_t n_views = features.rows / (int64_t{grid} * grid);
  const int64_t n_out = n_views * cells * cells;
  const Matrix out = backend.arena().matrix(n_out, int64_t{factor} * factor * features.cols);
  std::vector<int32_t> ids(static_cast<size_t>(n_out));
  for (int32_t part = 0; part < factor * factor; ++part) {
    const int64_t dy = part / factor, dx = part % factor;
    for (int64_t i = 0; i < n_out; ++i) {
      const int64_t view = i / (cells * cells), y = i / cells % cells, x = i % cells;
      const int64_t row = (view * grid + y * factor + dy) * grid + x * factor + dx;
      ids[static_cast<size_t>(i)] = static_cast<int32_t>(row);
    }
    backend.gather_rows({col_slice(out, part * features.cols, features.cols), features,
                         backend.upload(std::span<const int32_t>(ids))},
                        where);
  }
  return out;
}

int32_t read_shuffle_factor(const GgufFile& file, const VitConfig& config) {
  const char* key = "clip.vision.projector.scale_factor";
  const auto factor = static_cast<int32_t>(file.get_int(key, 1, kMaxShuffle));
  if (config.grid % factor != 0) {
    fail(ErrorCode::kFormat,
         "[vision tower] %s: %s is %d, expected a divisor of the %d patches per side of a view",
         quote_path(file.path()).c_str(), key, factor, config.grid);
  }
  return factor;
}

}  // namespace trimtok
