// LLaVA-1.5, LLaVA-1.6 and every other plain ViT with an MLP projector (clip.projector_type "mlp", spec 8.1).
//
// Follows the original implementations: class token first, every layer of the file, erf GELU in the
// projector, padding to a square (1.5) or any-resolution tiles with unpadding and newline rows (1.6).

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <span>

#include "engine/gguf/quote.h"
#include "engine/vision/anyres.h"
#include "engine/vision/tower.h"
#include "engine/vision/vit.h"

namespace trimtok {
namespace {

constexpr int64_t kMaxTiles = 256;
constexpr size_t kMaxPinpoints = 1024;
constexpr int32_t kMaxEmbd = 1 << 20;
// Views are encoded together as long as their activations stay below this.
constexpr size_t kGroupBytes = size_t{128} << 20;
constexpr int64_t kMaxGroupViews = 16;
constexpr int32_t kNewline = -1;

// vicuna_v1 (spec 11.2), the conversation of the original repository: the system text is trained in. The
// tokenizer adds BOS. Pictures come first whatever their place among the parts.
constexpr const char* kVicunaTemplate = R"jinja(
{%- if messages and messages[0].role == 'system' %}
  {%- set chat = messages[1:] %}
  {%- set system = messages[0].content %}
{%- else %}
  {%- set chat = messages %}
  {%- set system = 'A chat between a curious user and an artificial intelligence assistant. ' ~
      "The assistant gives helpful, detailed, and polite answers to the user's questions." %}
{%- endif %}
{%- macro text_of(content) %}
  {%- if content is string %}
    {{- content }}
  {%- else %}
    {%- for part in content if part.type == 'text' %}
      {{- ('' if loop.first else ' ') ~ part.text }}
    {%- endfor %}
  {%- endif %}
{%- endmacro %}
{{- text_of(system) ~ ' ' }}
{%- for m in chat %}
  {%- if m.role == 'user' %}
    {{- 'USER: ' }}
    {%- if m.content is not string %}
      {%- for part in m.content if part.type == 'image' %}
        {{- '<image>\n' }}
      {%- endfor %}
    {%- endif %}
    {{- text_of(m.content) ~ ' ' }}
  {%- elif m.role == 'assistant' %}
    {{- 'ASSISTANT: ' ~ text_of(m.content) ~ '</s>' }}
  {%- else %}
    {{- raise_exception('role must be user or assistant, with one optional system message first') }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- 'ASSISTANT:' }}
{%- endif %})jinja";

enum class Packing {
  kSingle,        // one padded view
  kFlat,          // overview, then tiles, nothing between
  kSpatialUnpad,  // overview, then the tiles as one grid without its padding, a newline row after every grid
                  // row
};

class LlavaTower final : public Tower {
 public:
  LlavaTower(const std::shared_ptr<const GgufFile>& file, const MemoryPtr& memory);

  const TowerInfo& info() const override { return info_; }
  ImagePlan plan(int32_t width, int32_t height) const override { return lay_out(width, height).plan; }
  std::vector<Image> preprocess(const ImageView& image) const override;
  EncodedImage encode(Backend& backend, const ImageView& image, const RunControl& control) const override;

 private:
  struct Layout {
    ImagePlan plan;
    std::vector<int32_t> sources;  // per row: index among the rows of all views, or kNewline
  };
  struct Progress {
    int64_t done;
    int64_t total;
  };

  void read_anyres(const GgufFile& file, bool has_newline);
  void read_feature_layers(const GgufFile& file);
  void bind(const std::shared_ptr<const GgufFile>& file, const MemoryPtr& memory);
  void bind_projector(WeightBinder& binder);
  void fill_info(const std::string& projector);

  Layout lay_out(int32_t width, int32_t height) const;
  void add_tiles(Layout& layout, int32_t width, int32_t height) const;

  void encode_views(Backend& backend, std::span<const Image> views, const Matrix& positions,
                    const Matrix& rows, const RunControl& control, Progress& progress) const;
  void embed(Backend& backend, std::span<const Image> views, const Matrix& positions, const Matrix& x) const;
  void collect(Backend& backend, int32_t hidden_state, const Matrix& x, const Matrix& features) const;
  void project(Backend& backend, const Matrix& features, const Matrix& rows) const;
  int64_t views_per_group() const;

  int64_t n_tokens() const { return config_.n_patches() + (class_embd_ != nullptr ? 1 : 0); }

  TowerInfo info_;
  VitConfig config_;
  Packing packing_ = Packing::kSingle;
  std::vector<Pinpoint> pinpoints_;
  std::array<uint8_t, 3> pad_colour_{};
  // Hidden states that are joined along their width, 0 being the input of layer 0. Empty: the last one,
  // normed.
  std::vector<int32_t> feature_layers_;

  std::shared_ptr<const WeightBinder::Storage> storage_;
  const float* class_embd_ = nullptr;
  Linear patch_embd_;
  ConstMatrix position_embd_;  // [n_tokens, width], the class token's row first
  Norm pre_ln_, post_ln_;
  std::vector<VitLayer> layers_;
  Linear mm0_, mm2_;                // mm2_: the second linear, mm.2 or mm.3; weight absent: the first is all
  Norm mm1_, mm4_;                  // norms after each linear of the mlp_norm variant
  const float* newline_ = nullptr;  // [n_embd]
};

LlavaTower::LlavaTower(const std::shared_ptr<const GgufFile>& file, const MemoryPtr& memory)
    : config_(read_vit_config(*file)) {
  for (size_t c = 0; c < 3; ++c) {
    pad_colour_[c] = static_cast<uint8_t>(std::clamp(255.0f * config_.mean[c], 0.0f, 255.0f));
  }
  read_feature_layers(*file);
  bind(file, memory);
  fill_info("mlp");
}

void LlavaTower::read_feature_layers(const GgufFile& file) {
  const std::vector<int64_t>* layers = file.find_ints("clip.vision.feature_layer");
  if (layers == nullptr) return;
  if (layers->empty() || layers->size() > static_cast<size_t>(config_.n_layers) + 1) {
    fail(ErrorCode::kFormat, "[vision tower] %s: clip.vision.feature_layer has %zu values, expected 1 to %d",
         quote_path(file.path()).c_str(), layers->size(), config_.n_layers + 1);
  }
  for (const int64_t layer : *layers) {
    if (layer < 0 || layer > config_.n_layers) {
      fail(ErrorCode::kFormat, "[vision tower] %s: clip.vision.feature_layer holds %lld, expected 0 to %d",
           quote_path(file.path()).c_str(), static_cast<long long>(layer), config_.n_layers);
    }
    feature_layers_.push_back(static_cast<int32_t>(layer));
  }
}

void LlavaTower::read_anyres(const GgufFile& file, bool has_newline) {
  const std::string path = quote_path(file.path());
  // The newline vector exists only in models trained with spatial_unpad, so it speaks for a missing key.
  const std::string merge =
      file.get_string("clip.vision.mm_patch_merge_type", has_newline ? "spatial_unpad" : "flat");
  const std::string aspect = file.get_string("clip.vision.image_aspect_ratio", "");
  if (merge != "flat" && merge != "spatial_unpad") {
    fail(ErrorCode::kUnsupported,
         "[vision tower] %s: clip.vision.mm_patch_merge_type is %s, expected flat or spatial_unpad",
         path.c_str(), quote_text(merge).c_str());
  }
  if (aspect.starts_with("anyres_max")) {
    fail(ErrorCode::kUnsupported,
         "[vision tower] %s: clip.vision.image_aspect_ratio is %s, expected anyres or pad; "
         "LLaVA-OneVision "
         "models are not supported",
         path.c_str(), quote_text(aspect).c_str());
  }
  if (merge == "spatial_unpad" && !has_newline) {
    fail(ErrorCode::kFormat,
         "[vision tower] %s: spatial_unpad without a newline vector, expected the tensor model.image_newline "
         "or "
         "v.image_newline",
         path.c_str());
  }
  const std::vector<int64_t>* sides = file.find_ints("clip.vision.image_grid_pinpoints");
  if (sides == nullptr || sides->empty()) {
    packing_ = merge == "flat" ? Packing::kSingle : Packing::kSpatialUnpad;
    return;
  }
  packing_ = merge == "flat" ? Packing::kFlat : Packing::kSpatialUnpad;
  if (sides->size() % 2 != 0 || sides->size() > 2 * kMaxPinpoints) {
    fail(ErrorCode::kFormat,
         "[vision tower] %s: clip.vision.image_grid_pinpoints has %zu values, expected pairs, at most %zu",
         path.c_str(), sides->size(), kMaxPinpoints);
  }
  for (size_t i = 0; i < sides->size(); i += 2) {
    const int64_t height = (*sides)[i], width = (*sides)[i + 1], tile = config_.image_size;
    const auto side_ok = [tile](int64_t side) {
      return side > 0 && side <= kMaxImageSide && side % tile == 0;
    };
    if (!side_ok(height) || !side_ok(width) || width * height > kMaxImagePixels ||
        (width / tile) * (height / tile) > kMaxTiles) {
      fail(
          ErrorCode::kFormat,
          "[vision tower] %s: clip.vision.image_grid_pinpoints holds (%lld, %lld), expected multiples of the "
          "image size %lld that make at most %lld tiles",
          path.c_str(), static_cast<long long>(height), static_cast<long long>(width),
          static_cast<long long>(tile), static_cast<long long>(kMaxTiles));
    }
    pinpoints_.push_back({static_cast<int32_t>(height), static_cast<int32_t>(width)});
  }
}

void LlavaTower::bind(const std::shared_ptr<const GgufFile>& file, const MemoryPtr& memory) {
  const int64_t width = config_.width;
  WeightBinder binder(file, "vision tower", memory);
  class_embd_ = binder.optional_vector("v.class_embd", width);
  patch_embd_.weight =
      binder.flattened("v.patch_embd.weight", width, int64_t{3} * config_.patch_size * config_.patch_size);
  patch_embd_.bias = binder.optional_vector("v.patch_embd.bias", width);
  position_embd_ = binder.matrix("v.position_embd.weight", n_tokens(), width);
  if (binder.has("v.pre_ln.weight")) pre_ln_ = bind_norm(binder, "v.pre_ln", width);
  // Chosen hidden states are raw; the last norm belongs to the tower's own output.
  if (feature_layers_.empty() && binder.has("v.post_ln.weight"))
    post_ln_ = bind_norm(binder, "v.post_ln", width);
  int32_t n_run = config_.n_layers;
  if (!feature_layers_.empty()) n_run = *std::max_element(feature_layers_.begin(), feature_layers_.end());
  layers_ = bind_vit_layers(binder, file, config_, n_run);
  bind_projector(binder);
  const char* newline = binder.has("v.image_newline") ? "v.image_newline" : "model.image_newline";
  read_anyres(*file, binder.has(newline));
  if (packing_ == Packing::kSpatialUnpad && info_.n_embd > 0) newline_ = binder.vector(newline, info_.n_embd);
  binder.finish();
  storage_ = binder.storage();
  if (info_.n_embd < 1) {
    fail(ErrorCode::kFormat, "[vision tower] %s: rows of %d values, expected 1 to %d",
         quote_path(file->path()).c_str(), info_.n_embd, kMaxEmbd);
  }
}

// projection_dim is not read: old files hold CLIP's own text projection there (spec 5.4).
void LlavaTower::bind_projector(WeightBinder& binder) {
  const int64_t n_features =
      config_.width * std::max<int64_t>(1, static_cast<int64_t>(feature_layers_.size()));
  mm0_ = bind_linear(binder, "mm.0", -1, n_features);
  const int64_t hidden = mm0_.weight.data != nullptr ? mm0_.weight.rows : -1;
  if (binder.has("mm.3.weight")) {
    mm2_ = bind_linear(binder, "mm.3", -1, hidden);
    if (hidden > 0) mm1_ = bind_norm(binder, "mm.1", hidden);
    if (mm2_.weight.data != nullptr) mm4_ = bind_norm(binder, "mm.4", mm2_.weight.rows);
  } else if (binder.has("mm.2.weight")) {
    mm2_ = bind_linear(binder, "mm.2", -1, hidden);
  }
  const Linear& last = mm2_.weight.data != nullptr ? mm2_ : mm0_;
  info_.n_embd = last.weight.rows <= kMaxEmbd ? static_cast<int32_t>(last.weight.rows) : 0;
}

void LlavaTower::fill_info(const std::string& projector) {
  info_.projector = projector;
  info_.family = "LLaVA";
  info_.placeholder = "<image>";
  info_.fallback_template = kVicunaTemplate;
  info_.n_layers = static_cast<int32_t>(layers_.size());
  info_.width = config_.width;
  info_.patch_size = config_.patch_size;
  info_.image_size = config_.image_size;
  info_.weight_bytes = storage_->weight_bytes;
}

// A rectangle of a scaled picture in pixels of the original, cut to it; {} when it lies outside.
RowBox picture_box(double x0, double y0, double x1, double y1, double scale_x, double scale_y, int32_t width,
                   int32_t height) {
  const RowBox box{static_cast<float>(std::clamp(x0 * scale_x, 0.0, double(width))),
                   static_cast<float>(std::clamp(y0 * scale_y, 0.0, double(height))),
                   static_cast<float>(std::clamp(x1 * scale_x, 0.0, double(width))),
                   static_cast<float>(std::clamp(y1 * scale_y, 0.0, double(height)))};
  return box.x1 > box.x0 && box.y1 > box.y0 ? box : RowBox{};
}

LlavaTower::Layout LlavaTower::lay_out(int32_t width, int32_t height) const {
  check_image_size(width, height);
  Layout layout;
  ImagePlan& plan = layout.plan;
  plan.view_width = plan.view_height = config_.image_size;
  plan.n_views = 1;
  plan.grids.push_back({0, config_.grid, config_.grid, config_.grid});
  // The first view shows the whole picture: stretched, or (1.5) centred on a square.
  const double patch = config_.patch_size, size = config_.image_size;
  const int32_t side = std::max(width, height);
  const bool padded = pinpoints_.empty();
  const double scale_x = (padded ? side : width) / size, scale_y = (padded ? side : height) / size;
  const double left = padded ? (side - width) / 2 / scale_x : 0.0;
  const double top = padded ? (side - height) / 2 / scale_y : 0.0;
  for (int32_t y = 0; y < config_.grid; ++y) {
    for (int32_t x = 0; x < config_.grid; ++x) {
      layout.sources.push_back(y * config_.grid + x);
      plan.boxes.push_back(picture_box(x * patch - left, y * patch - top, (x + 1) * patch - left,
                                       (y + 1) * patch - top, scale_x, scale_y, width, height));
    }
  }
  if (!pinpoints_.empty()) {
    add_tiles(layout, width, height);
  } else if (packing_ == Packing::kSpatialUnpad) {
    layout.sources.push_back(kNewline);
    plan.boxes.push_back({});
  }
  plan.n_rows = static_cast<int64_t>(layout.sources.size());
  plan.parts.push_back({"", 0, plan.n_rows});
  return layout;
}

void LlavaTower::add_tiles(Layout& layout, int32_t width, int32_t height) const {
  const int32_t tile = config_.image_size, grid = config_.grid;
  const Pinpoint canvas = best_resolution(width, height, pinpoints_);
  const Placement place = place_on_canvas(width, height, canvas);
  const int32_t tile_cols = canvas.width / tile, tile_rows = canvas.height / tile;
  const double scale_x = static_cast<double>(width) / place.width;
  const double scale_y = static_cast<double>(height) / place.height;
  layout.plan.n_views += tile_cols * tile_rows;
  const auto add = [&](int32_t tile_y, int32_t tile_x, int32_t y, int32_t x) {
    const int32_t view = 1 + tile_y * tile_cols + tile_x;
    layout.sources.push_back((view * grid + y) * grid + x);
    const double x0 = tile_x * tile + x * config_.patch_size - place.left;
    const double y0 = tile_y * tile + y * config_.patch_size - place.top;
    layout.plan.boxes.push_back(picture_box(x0, y0, x0 + config_.patch_size, y0 + config_.patch_size, scale_x,
                                            scale_y, width, height));
  };
  if (packing_ == Packing::kFlat) {
    for (int32_t t = 0; t < tile_cols * tile_rows; ++t) {
      layout.plan.grids.push_back({(t + 1) * grid * grid, grid, grid, grid});
      for (int32_t i = 0; i < grid * grid; ++i) add(t / tile_cols, t % tile_cols, i / grid, i % grid);
    }
    return;
  }
  const GridCut cut = unpad_grid(tile_cols * grid, tile_rows * grid, width, height);
  const int32_t first = grid * grid, stride = cut.n_cols + 1;
  layout.plan.grids.push_back({first, cut.n_cols, cut.n_rows, stride});
  layout.plan.grids.push_back({first + cut.n_cols, 1, cut.n_rows, stride});  // the newline rows
  for (int32_t y = cut.first_row; y < cut.first_row + cut.n_rows; ++y) {
    for (int32_t x = cut.first_col; x < cut.first_col + cut.n_cols; ++x) {
      add(y / grid, x / grid, y % grid, x % grid);
    }
    layout.sources.push_back(kNewline);
    layout.plan.boxes.push_back({});
  }
}

std::vector<Image> LlavaTower::preprocess(const ImageView& image) const {
  check_image(image);
  const int32_t size = config_.image_size;
  std::vector<Image> views;
  if (pinpoints_.empty()) {
    views.push_back(pad_to_square_and_resize(image, pad_colour_, size, Filter::kBicubic));
    return views;
  }
  views.push_back(resize(image, size, size, Filter::kBicubic));
  const Pinpoint best = best_resolution(image.width, image.height, pinpoints_);
  const Placement place = place_on_canvas(image.width, image.height, best);
  const Image scaled = resize(image, place.width, place.height, Filter::kBicubic);
  const Image canvas = paste(scaled.view(), best.width, best.height, place.left, place.top, {0, 0, 0});
  for (int32_t y = 0; y < best.height; y += size) {
    for (int32_t x = 0; x < best.width; x += size) views.push_back(crop(canvas.view(), x, y, size, size));
  }
  return views;
}

int64_t LlavaTower::views_per_group() const {
  const size_t features = std::max<size_t>(1, feature_layers_.size()) + 1;  // and the stream itself
  const size_t row_bytes = features * static_cast<size_t>(config_.width) * sizeof(float) +
                           (layers_.empty() ? 0 : vit_scratch_bytes(config_, layers_));
  const size_t view_bytes = row_bytes * static_cast<size_t>(n_tokens());
  return std::clamp<int64_t>(static_cast<int64_t>(kGroupBytes / view_bytes), 1, kMaxGroupViews);
}

EncodedImage LlavaTower::encode(Backend& backend, const ImageView& image, const RunControl& control) const {
  check_image(image);
  const Layout layout = lay_out(image.width, image.height);
  const std::vector<Image> views = preprocess(image);
  const auto n_views = static_cast<int64_t>(views.size());
  const int64_t n_view_rows = n_views * config_.n_patches();
  const Arena::Mark mark(backend.arena());

  std::vector<int32_t> ids(static_cast<size_t>(n_tokens()));
  std::iota(ids.begin(), ids.end(), 0);
  const Matrix positions = backend.arena().matrix(n_tokens(), config_.width);
  backend.gather_rows({positions, position_embd_, backend.upload(std::span<const int32_t>(ids))},
                      "vision positions");

  // All rows of all views; then the newline, so that packing is one gather.
  const Matrix table = backend.arena().matrix(n_view_rows + 1, info_.n_embd);
  const int64_t group = views_per_group();
  Progress progress{0, static_cast<int64_t>(layers_.size()) * ((n_views + group - 1) / group)};
  control.step("encode", progress.done, progress.total);
  for (int64_t first = 0; first < n_views; first += group) {
    const int64_t n = std::min(group, n_views - first);
    const Matrix rows = row_slice(table, first * config_.n_patches(), n * config_.n_patches());
    encode_views(backend, std::span(views).subspan(static_cast<size_t>(first), static_cast<size_t>(n)),
                 positions, rows, control, progress);
  }
  if (newline_ != nullptr) {
    const ConstMatrix newline(newline_, Dtype::kF32, 1, info_.n_embd, row_bytes(Dtype::kF32, info_.n_embd));
    backend.convert_rows({row_slice(table, n_view_rows, 1), newline}, "image newline");
  }

  std::vector<int32_t> sources = layout.sources;
  std::replace(sources.begin(), sources.end(), kNewline, static_cast<int32_t>(n_view_rows));
  const int64_t stride = row_bytes(Dtype::kF32, info_.n_embd);
  EncodedImage out;
  out.storage = backend.buffer(static_cast<size_t>(layout.plan.n_rows * stride));
  out.rows = {out.storage.data(), Dtype::kF32, layout.plan.n_rows, info_.n_embd, stride};
  backend.gather_rows({out.rows, table, backend.upload(std::span<const int32_t>(sources))}, "image rows");
  check_finite_rows(backend, out.rows);
  return out;
}

void LlavaTower::encode_views(Backend& backend, std::span<const Image> views, const Matrix& positions,
                              const Matrix& rows, const RunControl& control, Progress& progress) const {
  const auto n_views = static_cast<int64_t>(views.size());
  const int64_t n_features =
      std::max<int64_t>(1, static_cast<int64_t>(feature_layers_.size())) * config_.width;
  const Arena::Mark mark(backend.arena());
  const Matrix x = backend.arena().matrix(n_views * n_tokens(), config_.width);
  const Matrix features = backend.arena().matrix(n_views * config_.n_patches(), n_features);

  embed(backend, views, positions, x);
  control.emit(backend, "patch_embd", -1, x);
  if (pre_ln_.weight != nullptr) {
    backend.layer_norm({x, x, pre_ln_.weight, pre_ln_.bias, config_.eps}, "vision pre_ln");
    control.emit(backend, "pre_ln", -1, x);
  }
  // A row sees the rows of its own view.
  std::vector<int32_t> begin(static_cast<size_t>(x.rows)), end(begin.size());
  for (int64_t t = 0; t < x.rows; ++t) {
    const int64_t first = t / n_tokens() * n_tokens();
    begin[static_cast<size_t>(t)] = static_cast<int32_t>(first);
    end[static_cast<size_t>(t)] = static_cast<int32_t>(first + n_tokens());
  }
  const RowIntervals intervals{backend.upload(std::span<const int32_t>(begin)),
                               backend.upload(std::span<const int32_t>(end))};
  collect(backend, 0, x, features);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto index = static_cast<int32_t>(i);
    run_vit_layer(backend, config_, layers_[i], index, x, intervals);
    control.emit(backend, "layer_out", index, x);
    collect(backend, index + 1, x, features);
    control.step("encode", ++progress.done, progress.total);
  }
  if (post_ln_.weight != nullptr) {
    backend.layer_norm({features, features, post_ln_.weight, post_ln_.bias, config_.eps}, "vision post_ln");
  }
  control.emit(backend, "vision_out", -1, features);
  project(backend, features, rows);
  control.emit(backend, "view_rows", -1, rows);
}

// x: [views * n_tokens, width] = patches . kernel + bias + positions, the class token in row 0 of every view.
void LlavaTower::embed(Backend& backend, std::span<const Image> views, const Matrix& positions,
                       const Matrix& x) const {
  const Arena::Mark mark(backend.arena());
  const int64_t n_class = n_tokens() - config_.n_patches();
  const Matrix patches = backend.arena().matrix(config_.n_patches(), patch_embd_.weight.cols);
  std::vector<float> pixels(3 * static_cast<size_t>(config_.image_size) *
                            static_cast<size_t>(config_.image_size));
  const Matrix patch_positions = row_slice(positions, n_class, config_.n_patches());
  for (size_t v = 0; v < views.size(); ++v) {
    const Matrix tokens = row_slice(x, static_cast<int64_t>(v) * n_tokens(), n_tokens());
    normalise(views[v].view(), config_.mean, config_.std, pixels.data());
    const Arena::Mark view_mark(backend.arena());
    backend.patchify({patches, backend.upload(std::span<const float>(pixels)), 3, config_.image_size,
                      config_.image_size, config_.patch_size},
                     "vision patches");
    backend.matmul({row_slice(tokens, n_class, config_.n_patches()), patches, patch_embd_.weight,
                    patch_embd_.bias, Activation::kNone, patch_positions},
                   "vision patches");
    if (class_embd_ != nullptr) {
      const ConstMatrix token(class_embd_, Dtype::kF32, 1, config_.width,
                              row_bytes(Dtype::kF32, config_.width));
      backend.add({row_slice(tokens, 0, 1), token, row_slice(positions, 0, 1)}, "vision class token");
    }
  }
}

// Copies a hidden state into its places in `features`, without the class rows.
void LlavaTower::collect(Backend& backend, int32_t hidden_state, const Matrix& x,
                         const Matrix& features) const {
  const int64_t n_class = n_tokens() - config_.n_patches();
  const std::vector<int32_t> last{static_cast<int32_t>(layers_.size())};
  const std::vector<int32_t>& wanted = feature_layers_.empty() ? last : feature_layers_;
  for (size_t k = 0; k < wanted.size(); ++k) {
    if (wanted[k] != hidden_state) continue;
    const Matrix place = col_slice(features, static_cast<int64_t>(k) * config_.width, config_.width);
    for (int64_t v = 0; v * n_tokens() < x.rows; ++v) {
      backend.convert_rows({row_slice(place, v * config_.n_patches(), config_.n_patches()),
                            row_slice(x, v * n_tokens() + n_class, config_.n_patches())},
                           "vision features");
    }
  }
}

void LlavaTower::project(Backend& backend, const Matrix& features, const Matrix& rows) const {
  const char* where = "vision projector";
  const Arena::Mark mark(backend.arena());
  if (mm2_.weight.data == nullptr) {
    backend.matmul({rows, features, mm0_.weight, mm0_.bias, Activation::kNone, {}}, where);
    return;
  }
  const bool normed = mm1_.weight != nullptr;
  const Matrix hidden = backend.arena().matrix(features.rows, mm0_.weight.rows);
  const Activation act = normed ? Activation::kNone : Activation::kGeluErf;
  backend.matmul({hidden, features, mm0_.weight, mm0_.bias, act, {}}, where);
  if (normed) {
    // There is no op for a lone activation: act(x) * 1.
    const std::vector<float> one(static_cast<size_t>(hidden.cols), 1.0f);
    const std::vector<int32_t> zeros(static_cast<size_t>(hidden.rows), 0);
    const ConstMatrix one_row(backend.upload(std::span<const float>(one)), Dtype::kF32, 1, hidden.cols,
                              row_bytes(Dtype::kF32, hidden.cols));
    const Matrix ones = backend.arena().matrix(hidden.rows, hidden.cols);
    backend.gather_rows({ones, one_row, backend.upload(std::span<const int32_t>(zeros))}, where);
    backend.layer_norm({hidden, hidden, mm1_.weight, mm1_.bias, config_.eps}, where);
    backend.gated_act({hidden, hidden, ones, Activation::kGeluErf}, where);
  }
  backend.matmul({rows, hidden, mm2_.weight, mm2_.bias, Activation::kNone, {}}, where);
  if (normed) backend.layer_norm({rows, rows, mm4_.weight, mm4_.bias, config_.eps}, where);
}

}  // namespace

std::unique_ptr<Tower> load_llava(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory);

std::unique_ptr<Tower> load_llava(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory) {
  return std::make_unique<LlavaTower>(file, memory);
}

}  // namespace trimtok
