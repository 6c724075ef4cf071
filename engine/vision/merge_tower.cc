#include "engine/vision/merge_tower.h"

#include <algorithm>
#include <cmath>

#include "engine/gguf/quote.h"

namespace trimtok {
namespace {

constexpr int32_t kMaxEmbd = 1 << 20;
constexpr int32_t kMaxMerge = 64;
constexpr int32_t kMaxCellSide = 512;
// Positions are interpolated for this many patches at a time.
constexpr int64_t kPositionBlock = 4096;
constexpr double kRopeBase = 10000.0;
constexpr double kMaxPlace = 1 << 24;  // of a video's last group

struct Layout {
  ImagePlan plan;
  int32_t cells_across = 0;
  int32_t cells_down = 0;
  CellOrder order;
  std::vector<int32_t> patches;  // raster index of the j-th patch
};

class MergeTower final : public Tower {
 public:
  explicit MergeTower(MergeTowerParts parts) : p_(std::move(parts)) {}

  const TowerInfo& info() const override { return p_.info; }
  ImagePlan plan(int32_t width, int32_t height) const override {
    return lay_out(width, height, still_size(width, height)).plan;
  }
  std::vector<Image> preprocess(const ImageView& image) const override;
  EncodedImage encode(Backend& backend, const ImageView& image, const RunControl& control) const override;
  std::vector<ImagePlan> plan_video(int32_t width, int32_t height, int32_t n_frames,
                                    double fps) const override;
  EncodedImage encode_group(Backend& backend, std::span<const ImageView> frames, int32_t n_frames,
                            const RunControl& control) const override;
  std::shared_ptr<const Tower> with_options(const ViewOptions& options) const override;

 private:
  PixelSize still_size(int32_t width, int32_t height) const {
    return smart_resize(width, height, factor(), p_.limits);
  }
  PixelSize frame_size(int32_t width, int32_t height, int32_t n_frames) const;
  Layout lay_out(int32_t width, int32_t height, const PixelSize& size) const;
  EncodedImage encode_frames(Backend& backend, const Image& first, const Image& second, const Layout& layout,
                             const RunControl& control) const;
  void embed(Backend& backend, const Image& first, const Image& second, const Layout& layout,
             const Matrix& x) const;
  void add_positions(Backend& backend, const Layout& layout, const Matrix& x) const;
  std::vector<float> rope_angles(const Layout& layout) const;
  void merge_rows(Backend& backend, const Linear& first, const Linear& second, const Matrix& cells,
                  const Layout& layout, const Matrix& rows, const char* where) const;
  Matrix as_cells(const Matrix& patches) const;

  int32_t factor() const { return p_.config.patch_size * p_.merge; }
  int64_t cell_width() const { return int64_t{p_.merge} * p_.merge * p_.config.width; }

  MergeTowerParts p_;
};

PixelSize MergeTower::frame_size(int32_t width, int32_t height, int32_t n_frames) const {
  return p_.video.limits_are_for_all_frames
             ? smart_resize_video(width, height, n_frames, factor(), p_.video.limits)
             : smart_resize(width, height, factor(), p_.video.limits);
}

Layout MergeTower::lay_out(int32_t width, int32_t height, const PixelSize& size) const {
  Layout layout;
  layout.cells_across = size.width / factor();
  layout.cells_down = size.height / factor();
  const int32_t window = p_.window > 0 ? p_.window : std::max(layout.cells_across, layout.cells_down);
  layout.order = window_order(layout.cells_across, layout.cells_down, window);
  layout.patches = patch_order(layout.order.cells, layout.cells_across, p_.merge);

  ImagePlan& plan = layout.plan;
  plan.n_rows = static_cast<int64_t>(layout.order.cells.size());
  plan.n_views = 1;
  plan.view_width = size.width;
  plan.view_height = size.height;
  plan.grids.push_back({0, layout.cells_across, layout.cells_down, layout.cells_across});
  plan.parts = {{"<|vision_start|>", 0, 0}, {"", 0, plan.n_rows}, {"<|vision_end|>", 0, 0}};
  const float across = static_cast<float>(width) / static_cast<float>(layout.cells_across);
  const float down = static_cast<float>(height) / static_cast<float>(layout.cells_down);
  for (int32_t y = 0; y < layout.cells_down; ++y) {
    for (int32_t x = 0; x < layout.cells_across; ++x) {
      const auto left = static_cast<float>(x), top = static_cast<float>(y);
      plan.boxes.push_back({left * across, top * down, (left + 1) * across, (top + 1) * down});
      plan.places.push_back({0, y, x});
    }
  }
  return layout;
}

std::vector<Image> MergeTower::preprocess(const ImageView& image) const {
  check_image(image);
  const PixelSize size = still_size(image.width, image.height);
  std::vector<Image> views;
  views.push_back(resize(image, size.width, size.height, Filter::kBicubic));
  return views;
}

std::shared_ptr<const Tower> MergeTower::with_options(const ViewOptions& options) const {
  const auto other = std::make_shared<MergeTower>(p_);
  for (PixelLimits* limits : {&other->p_.limits, &other->p_.video.limits}) {
    if (options.min_pixels != 0) limits->min = options.min_pixels;
    if (options.max_pixels != 0) limits->max = options.max_pixels;
    // One of them alone may cross the family's own value of the other, which then gives way.
    if (options.min_pixels == 0) limits->min = std::min(limits->min, limits->max);
    if (options.max_pixels == 0) limits->max = std::max(limits->min, limits->max);
  }
  const PixelLimits& limits = other->p_.limits;
  const int64_t cell = int64_t{factor()} * factor();
  if (limits.min < 1 || limits.max > kMaxImagePixels || limits.max < cell || limits.min > limits.max) {
    fail(ErrorCode::kInvalidArgument,
         "[max_pixels] min_pixels is %lld and max_pixels %lld, expected 1 <= min_pixels <= max_pixels and "
         "max_pixels in [%lld, %lld] for %s",
         static_cast<long long>(limits.min), static_cast<long long>(limits.max), static_cast<long long>(cell),
         static_cast<long long>(kMaxImagePixels), p_.info.family.c_str());
  }
  return other;
}

// Cells are consecutive patches, so joining them is another look at the same memory.
Matrix MergeTower::as_cells(const Matrix& patches) const {
  const int64_t cols = cell_width();
  return {patches.data, Dtype::kF32, patches.rows / (int64_t{p_.merge} * p_.merge), cols,
          row_bytes(Dtype::kF32, cols)};
}

// x: [patches, width] in the order of the layout.
void MergeTower::embed(Backend& backend, const Image& first, const Image& second, const Layout& layout,
                       const Matrix& x) const {
  const char* where = "vision patches";
  const Arena::Mark mark(backend.arena());
  std::vector<float> pixels(3 * static_cast<size_t>(first.width) * static_cast<size_t>(first.height));
  const Matrix patches = backend.arena().matrix(x.rows, p_.frame0.weight.cols);
  const Matrix raster = backend.arena().matrix(x.rows, x.cols);
  const auto cut = [&](const Image& frame) {
    normalise(frame.view(), p_.config.mean, p_.config.std, pixels.data());
    backend.patchify({patches, backend.upload(std::span<const float>(pixels)), 3, frame.height, frame.width,
                      p_.config.patch_size},
                     where);
  };
  cut(first);
  backend.matmul({raster, patches, p_.frame0.weight, p_.frame0.bias, Activation::kNone, {}}, where);
  if (&second != &first) cut(second);
  backend.matmul({raster, patches, p_.frame1, nullptr, Activation::kNone, raster}, where);
  backend.gather_rows({x, raster, backend.upload(std::span<const int32_t>(layout.patches))}, where);
  if (p_.positions.data != nullptr) add_positions(backend, layout, x);
}

// x += the table's points around each patch, weighted.
void MergeTower::add_positions(Backend& backend, const Layout& layout, const Matrix& x) const {
  const char* where = "vision positions";
  const int32_t side = p_.position_side, across = layout.cells_across * p_.merge;
  const std::vector<GridSample> rows = corner_aligned_samples(side, layout.cells_down * p_.merge);
  const std::vector<GridSample> cols = corner_aligned_samples(side, across);
  for (int64_t first = 0; first < x.rows; first += kPositionBlock) {
    const Arena::Mark mark(backend.arena());
    const int64_t n = std::min(kPositionBlock, x.rows - first);
    std::vector<int32_t> ids, begin{0};
    std::vector<float> weights;
    for (int64_t j = first; j < first + n; ++j) {
      const int32_t patch = layout.patches[static_cast<size_t>(j)];
      const GridSample& row = rows[static_cast<size_t>(patch / across)];
      const GridSample& col = cols[static_cast<size_t>(patch % across)];
      for (const auto& [y, dy] : {std::pair(row.low, 1.0f - row.share), std::pair(row.high, row.share)}) {
        for (const auto& [x_at, dx] :
             {std::pair(col.low, 1.0f - col.share), std::pair(col.high, col.share)}) {
          ids.push_back(y * side + x_at);
          weights.push_back(dy * dx);
        }
      }
      begin.push_back(static_cast<int32_t>(ids.size()));
    }
    const Matrix points = backend.arena().matrix(4 * n, x.cols);
    const Matrix sums = backend.arena().matrix(n, x.cols);
    backend.gather_rows({points, p_.positions, backend.upload(std::span<const int32_t>(ids))}, where);
    backend.sum_rows({sums, points, backend.upload(std::span<const float>(weights)),
                      backend.upload(std::span<const int32_t>(begin))},
                     where);
    const Matrix part = row_slice(x, first, n);
    backend.add({part, part, sums}, where);
  }
}

// cos of all patches, then sin: [2, patches, head_dim / 2]. The first half of the pairs turns with the row of
// a patch, the second with its column, both from the lowest frequency on.
std::vector<float> MergeTower::rope_angles(const Layout& layout) const {
  const size_t half = static_cast<size_t>(p_.config.head_dim) / 4, n_pairs = 2 * half;
  const int32_t across = layout.cells_across * p_.merge;
  const size_t n = layout.patches.size() * n_pairs;
  std::vector<double> radians(half);  // of a pair per patch
  for (size_t k = 0; k < half; ++k) {
    radians[k] = std::pow(kRopeBase, -static_cast<double>(k) / static_cast<double>(half));
  }
  std::vector<float> values(2 * n);
  for (size_t j = 0; j < layout.patches.size(); ++j) {
    const int32_t row = layout.patches[j] / across, col = layout.patches[j] % across;
    for (size_t k = 0; k < n_pairs; ++k) {
      const double angle = (k < half ? row : col) * radians[k % half];
      values[j * n_pairs + k] = static_cast<float>(std::cos(angle));
      values[n + j * n_pairs + k] = static_cast<float>(std::sin(angle));
    }
  }
  return values;
}

// rows: [cells in raster order, n_embd] = second(gelu(first(cells))).
void MergeTower::merge_rows(Backend& backend, const Linear& first, const Linear& second, const Matrix& cells,
                            const Layout& layout, const Matrix& rows, const char* where) const {
  const Arena::Mark mark(backend.arena());
  const Matrix hidden = backend.arena().matrix(cells.rows, first.weight.rows);
  const Matrix merged = backend.arena().matrix(cells.rows, rows.cols);
  backend.matmul({hidden, cells, first.weight, first.bias, Activation::kGeluErf, {}}, where);
  backend.matmul({merged, hidden, second.weight, second.bias, Activation::kNone, {}}, where);
  std::vector<int32_t> places(layout.order.cells.size());
  for (size_t j = 0; j < places.size(); ++j) {
    places[static_cast<size_t>(layout.order.cells[j])] = static_cast<int32_t>(j);
  }
  backend.gather_rows({rows, merged, backend.upload(std::span<const int32_t>(places))}, where);
}

EncodedImage MergeTower::encode(Backend& backend, const ImageView& image, const RunControl& control) const {
  const Image view = std::move(preprocess(image)[0]);
  const Layout layout = lay_out(image.width, image.height, {view.width, view.height});
  return encode_frames(backend, view, view, layout, control);
}

std::vector<ImagePlan> MergeTower::plan_video(int32_t width, int32_t height, int32_t n_frames,
                                              double fps) const {
  const Layout layout = lay_out(width, height, frame_size(width, height, n_frames));
  const int32_t n_groups = (n_frames + 1) / 2;
  const double seconds = 2.0 / fps;  // of a group
  std::vector<ImagePlan> plans(static_cast<size_t>(n_groups), layout.plan);
  for (int32_t g = 0; g < n_groups; ++g) {
    ImagePlan& plan = plans[static_cast<size_t>(g)];
    if (p_.video.timestamps) {
      // The middle of the group; a last frame that stands alone is its own middle.
      const double last = std::min(2 * g + 1, n_frames - 1) / fps;
      plan.parts[0].text = format("<%.1f seconds>", (2 * g / fps + last) / 2) + plan.parts[0].text;
      continue;
    }
    const double per_second = p_.video.places_per_second;
    const double place = per_second > 0 ? std::floor(g * seconds * per_second) : g;
    if (!(place < kMaxPlace)) {
      fail(
          ErrorCode::kInvalidArgument,
          "[fps] %g frames per second put frame %d at position %g, expected below %g; give the rate at which "
          "the frames were taken",
          fps, 2 * g, place, kMaxPlace);
    }
    for (RowPlace& row : plan.places) row.t = static_cast<int32_t>(place);
    if (g > 0) plan.parts.erase(plan.parts.begin());
    if (g + 1 < n_groups) plan.parts.pop_back();
  }
  return plans;
}

EncodedImage MergeTower::encode_group(Backend& backend, std::span<const ImageView> frames, int32_t n_frames,
                                      const RunControl& control) const {
  const ImageView &first = frames.front(), &last = frames.back();
  check_image(first);
  check_image(last);
  const PixelSize size = frame_size(first.width, first.height, n_frames);
  const Layout layout = lay_out(first.width, first.height, size);
  const Image one = resize(first, size.width, size.height, Filter::kBicubic);
  if (frames.size() == 1) return encode_frames(backend, one, one, layout, control);
  const Image two = resize(last, size.width, size.height, Filter::kBicubic);
  return encode_frames(backend, one, two, layout, control);
}

EncodedImage MergeTower::encode_frames(Backend& backend, const Image& first, const Image& second,
                                       const Layout& layout, const RunControl& control) const {
  const auto n_patches = static_cast<int64_t>(layout.patches.size());
  const auto n_layers = static_cast<int64_t>(p_.layers.size());
  const Arena::Mark mark(backend.arena());
  const Matrix x = backend.arena().matrix(n_patches, p_.config.width);
  control.step("encode", 0, n_layers);
  embed(backend, first, second, layout, x);
  control.emit(backend, "patch_embd", -1, x);

  const std::vector<float> angles = rope_angles(layout);
  const float* cos = backend.upload(std::span<const float>(angles));
  const int64_t n_pairs = p_.config.head_dim / 2, stride = row_bytes(Dtype::kF32, n_pairs);
  const Rotation rope{{cos, Dtype::kF32, n_patches, n_pairs, stride},
                      {cos + n_patches * n_pairs, Dtype::kF32, n_patches, n_pairs, stride}};

  // Patches of a window are consecutive, so windows are intervals of keys: no mask is ever made.
  const auto n = static_cast<size_t>(n_patches);
  const std::vector<int32_t> all_begin(n, 0), all_end(n, static_cast<int32_t>(n_patches));
  std::vector<int32_t> begin(n), end(n);
  const int32_t per_cell = p_.merge * p_.merge;
  for (size_t w = 0; w + 1 < layout.order.starts.size(); ++w) {
    const int32_t from = layout.order.starts[w] * per_cell, to = layout.order.starts[w + 1] * per_cell;
    std::fill(begin.begin() + from, begin.begin() + to, from);
    std::fill(end.begin() + from, end.begin() + to, to);
  }
  const RowIntervals everything{backend.upload(std::span<const int32_t>(all_begin)),
                                backend.upload(std::span<const int32_t>(all_end))};
  const RowIntervals windows{backend.upload(std::span<const int32_t>(begin)),
                             backend.upload(std::span<const int32_t>(end))};

  const int64_t n_embd = p_.info.n_embd;
  EncodedImage out;
  const int64_t row_size = row_bytes(Dtype::kF32, n_embd * (1 + p_.info.n_extra));
  out.storage = backend.buffer(static_cast<size_t>(layout.plan.n_rows * row_size));
  out.rows = {out.storage.data(), Dtype::kF32, layout.plan.n_rows, n_embd * (1 + p_.info.n_extra), row_size};

  size_t tap = 0;
  for (size_t i = 0; i < p_.layers.size(); ++i) {
    const auto index = static_cast<int32_t>(i);
    const bool windowed = p_.window > 0 && !p_.full[i];
    run_vit_layer(backend, p_.config, p_.layers[i], index, x, windowed ? windows : everything, rope);
    control.emit(backend, "layer_out", index, x);
    for (; tap < p_.taps.size() && p_.taps[tap].layer == index; ++tap) {
      const Arena::Mark tap_mark(backend.arena());
      const DeepstackTap& t = p_.taps[tap];
      const Matrix cells = as_cells(x);
      const Matrix normed = backend.arena().matrix(cells.rows, cells.cols);
      apply_norm(backend, p_.config, t.norm, normed, cells, "vision deepstack");
      merge_rows(backend, t.fc1, t.fc2, normed, layout,
                 col_slice(out.rows, n_embd * (1 + static_cast<int64_t>(tap)), n_embd), "vision deepstack");
    }
    control.step("encode", index + 1, n_layers);
  }
  control.emit(backend, "vision_out", -1, x);
  apply_norm(backend, p_.config, p_.post_ln, x, x, "vision post_ln");
  merge_rows(backend, p_.mm0, p_.mm2, as_cells(x), layout, col_slice(out.rows, 0, n_embd), "vision merger");
  control.emit(backend, "view_rows", -1, out.rows);
  check_finite_rows(backend, out.rows);
  return out;
}

}  // namespace

void read_merge_config(const GgufFile& file, MergeTowerParts& parts) {
  parts.config = read_vit_config(file);
  parts.merge = static_cast<int32_t>(file.get_int("clip.vision.spatial_merge_size", 1, kMaxMerge, 2));
  if (parts.config.head_dim % 4 != 0) {
    fail(ErrorCode::kFormat,
         "[vision tower] %s: heads of %d values, expected a multiple of 4: rows and columns turn half of "
         "the pairs each",
         quote_path(file.path()).c_str(), parts.config.head_dim);
  }
  if (parts.merge * parts.config.patch_size > kMaxCellSide) {
    fail(ErrorCode::kUnsupported,
         "[vision tower] %s: cells of %d patches of %d pixels per side, expected at most %d pixels",
         quote_path(file.path()).c_str(), parts.merge, parts.config.patch_size, kMaxCellSide);
  }
}

void bind_merge_weights(WeightBinder& binder, const std::shared_ptr<const GgufFile>& file,
                        MergeTowerParts& parts) {
  const VitConfig& c = parts.config;
  const int64_t pixels = int64_t{3} * c.patch_size * c.patch_size;
  const int64_t cell = int64_t{parts.merge} * parts.merge * c.width;
  parts.frame0.weight = binder.flattened("v.patch_embd.weight", c.width, pixels);
  parts.frame0.bias = binder.optional_vector("v.patch_embd.bias", c.width);
  parts.frame1 = binder.flattened("v.patch_embd.weight.1", c.width, pixels);
  parts.layers = bind_vit_layers(binder, file, c, c.n_layers);
  parts.post_ln = bind_norm(binder, "v.post_ln", c.width);
  parts.mm0 = bind_linear(binder, "mm.0", -1, cell);
  parts.mm2 = bind_linear(binder, "mm.2", -1, parts.mm0.weight.data != nullptr ? parts.mm0.weight.rows : -1);
}

void fill_merge_info(const WeightBinder& binder, MergeTowerParts& parts) {
  parts.storage = binder.storage();
  TowerInfo& info = parts.info;
  if (parts.mm2.weight.rows > kMaxEmbd) {
    fail(ErrorCode::kFormat, "[vision tower] rows of %lld values, expected 1 to %d",
         static_cast<long long>(parts.mm2.weight.rows), kMaxEmbd);
  }
  info.n_embd = static_cast<int32_t>(parts.mm2.weight.rows);
  info.n_extra = static_cast<int32_t>(parts.taps.size());
  info.placeholder = "<|vision_start|><|image_pad|><|vision_end|>";
  info.frames_per_group = 2;
  info.n_layers = parts.config.n_layers;
  info.width = parts.config.width;
  info.patch_size = parts.config.patch_size;
  info.image_size = parts.config.image_size;
  info.weight_bytes = parts.storage->weight_bytes;
}

std::unique_ptr<Tower> make_merge_tower(MergeTowerParts parts) {
  return std::make_unique<MergeTower>(std::move(parts));
}

}  // namespace trimtok
