// InternVL 2.5, 3 and 3.5 (clip.projector_type "internvl", spec 8.6): InternViT, tiles and a thumbnail, pixel
// shuffle, a norm and two linear layers.
//
// Follows the original implementation: the picture is stretched to the grid of tiles whose aspect is nearest,
// however small it is; the class token goes first, with the first row of the position table; erf GELU.

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/gguf/quote.h"
#include "engine/vision/square_vit.h"
#include "engine/vision/tiles.h"

namespace trimtok {
namespace {

constexpr int32_t kMaxEmbd = 1 << 20;
constexpr int64_t kMaxTiles = 256;
// Of nn.LayerNorm, which the projector uses whatever the tower's own epsilon is.
constexpr float kProjectorEps = 1e-5f;

// ChatML as the original chat() builds it ("internvl2_5", spec 11.2). Files of the family carry the template
// of their language model, which takes strings only; this one serves files without any.
constexpr const char* kTemplate = R"jinja(
{%- if not messages or messages[0].role != 'system' %}
  {{- '<|im_start|>system\n你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的' }}
  {{- '多模态大语言模型。<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
  {{- '<|im_start|>' ~ m.role ~ '\n' }}
  {%- if m.content is string %}
    {{- m.content }}
  {%- else %}
    {%- for part in m.content %}
      {{- part.text if part.type == 'text' else ('<IMG_CONTEXT>\n' if part.type == 'image' else '') }}
    {%- endfor %}
  {%- endif %}
  {{- '<|im_end|>\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\n' if add_generation_prompt else '' }})jinja";

// Grids of [min, max] tiles, fewer tiles first; the nearest aspect wins. Of equals the first, unless the
// picture has more than half of the pixels that a later one would give it.
TileGrid nearest_grid(int32_t width, int32_t height, int32_t tile, int32_t min_tiles, int32_t max_tiles) {
  const double aspect = static_cast<double>(width) / height;
  const double area = static_cast<double>(width) * height;
  TileGrid best;
  double best_distance = std::numeric_limits<double>::infinity();
  for (int32_t n = min_tiles; n <= max_tiles; ++n) {
    for (int32_t cols = 1; cols <= n; ++cols) {
      if (n % cols != 0) continue;
      const int32_t rows = n / cols;
      const double distance = std::fabs(aspect - static_cast<double>(cols) / rows);
      const bool fills = area > 0.5 * tile * tile * cols * rows;
      if (distance < best_distance || (distance == best_distance && fills)) best = {cols, rows};
      best_distance = std::min(best_distance, distance);
    }
  }
  return best;
}

class InternVlTower final : public Tower {
 public:
  InternVlTower(const std::shared_ptr<const GgufFile>& file, const MemoryPtr& memory);

  const TowerInfo& info() const override { return info_; }
  ImagePlan plan(int32_t width, int32_t height) const override;
  std::vector<Image> preprocess(const ImageView& image) const override;
  EncodedImage encode(Backend& backend, const ImageView& image, const RunControl& control) const override;

 private:
  static VitConfig read_config(const GgufFile& file);
  void read_tiles(const GgufFile& file);
  void bind_projector(WeightBinder& binder);
  TileGrid tiles_of(int32_t width, int32_t height) const {
    return nearest_grid(width, height, tile(), min_tiles_, max_tiles_);
  }
  int32_t tile() const { return vit_.config().image_size; }
  int32_t cells() const { return vit_.config().grid / factor_; }

  TowerInfo info_;
  SquareVit vit_;
  int32_t factor_ = 0;
  int32_t min_tiles_ = 0;
  int32_t max_tiles_ = 0;
  Norm norm_;         // [factor^2 * width]
  Linear fc1_, fc2_;  // [n_embd, factor^2 * width], [n_embd, n_embd]
  std::shared_ptr<const WeightBinder::Storage> storage_;
};

// The 6B tower has RMSNorm, which no key says: its norms have no bias.
VitConfig InternVlTower::read_config(const GgufFile& file) {
  VitConfig config = read_vit_config(file);
  config.rms_norm = file.find_tensor("v.blk.0.ln1.bias") == nullptr;
  if (config.act == Activation::kGeluTanh) config.act = Activation::kGeluErf;  // one flag stands for both
  return config;
}

InternVlTower::InternVlTower(const std::shared_ptr<const GgufFile>& file, const MemoryPtr& memory)
    : vit_(read_config(*file)) {
  factor_ = read_shuffle_factor(*file, vit_.config());
  read_tiles(*file);
  WeightBinder binder(file, "vision tower", memory);
  vit_.bind(binder, file);
  bind_projector(binder);
  binder.finish();
  storage_ = binder.storage();
  if (fc2_.weight.rows > kMaxEmbd) {
    fail(ErrorCode::kFormat, "[vision tower] %s: rows of %lld values, expected 1 to %d",
         quote_path(file->path()).c_str(), static_cast<long long>(fc2_.weight.rows), kMaxEmbd);
  }
  vit_.describe(info_);
  info_.projector = "internvl";
  info_.family = "InternVL";
  info_.placeholder = "<IMG_CONTEXT>";
  info_.fallback_template = kTemplate;
  info_.n_embd = static_cast<int32_t>(fc2_.weight.rows);
  info_.weight_bytes = storage_->weight_bytes;
}

void InternVlTower::read_tiles(const GgufFile& file) {
  min_tiles_ = static_cast<int32_t>(file.get_int("clip.vision.preproc_min_tiles", 1, kMaxTiles, 1));
  max_tiles_ = static_cast<int32_t>(
      file.get_int("clip.vision.preproc_max_tiles", min_tiles_, kMaxTiles, std::max(min_tiles_, 12)));
  const int64_t side = int64_t{tile()} * max_tiles_;
  if (side > kMaxImageSide || side * tile() > kMaxImagePixels) {
    fail(
        ErrorCode::kFormat,
        "[vision tower] %s: clip.vision.preproc_max_tiles is %d with tiles of %d pixels, expected at most %d "
        "pixels for all tiles in a row",
        quote_path(file.path()).c_str(), max_tiles_, tile(), kMaxImageSide);
  }
}

void InternVlTower::bind_projector(WeightBinder& binder) {
  const int64_t n_features = int64_t{factor_} * factor_ * vit_.config().width;
  norm_ = bind_norm(binder, "mm.model.mlp.0", n_features);
  fc1_ = bind_linear(binder, "mm.model.mlp.1", -1, n_features);
  fc2_ = bind_linear(binder, "mm.model.mlp.3", -1, fc1_.weight.data != nullptr ? fc1_.weight.rows : -1);
}

ImagePlan InternVlTower::plan(int32_t width, int32_t height) const {
  check_image_size(width, height);
  const double cell_size = static_cast<double>(vit_.config().patch_size) * factor_;
  ImagePlan plan = plan_tiles(tiles_of(width, height), {tile(), cells(), cell_size}, width, height);
  plan.parts = {{"<img>", 0, 0}, {"", 0, plan.n_rows}, {"</img>", 0, 0}};
  return plan;
}

std::vector<Image> InternVlTower::preprocess(const ImageView& image) const {
  check_image(image);
  const TileGrid tiles = tiles_of(image.width, image.height);
  std::vector<Image> views;
  if (tiles.is_cut()) {
    const Image canvas = resize(image, tiles.cols * tile(), tiles.rows * tile(), Filter::kBicubic);
    views = cut_tiles(canvas.view(), tiles, tile());
  }
  views.push_back(resize(image, tile(), tile(), Filter::kBicubic));
  return views;
}

EncodedImage InternVlTower::encode(Backend& backend, const ImageView& image,
                                   const RunControl& control) const {
  const char* where = "vision projector";
  ViewProjector projector;
  projector.rows_per_view = int64_t{cells()} * cells();
  projector.n_embd = info_.n_embd;
  projector.run = [&](Backend& b, const Matrix& features, const Matrix& rows) {
    const Arena::Mark mark(b.arena());
    const Matrix x = pixel_shuffle(b, features, vit_.config().grid, factor_, where);
    const Matrix hidden = b.arena().matrix(x.rows, fc1_.weight.rows);
    b.layer_norm({x, x, norm_.weight, norm_.bias, kProjectorEps}, where);
    b.matmul({hidden, x, fc1_.weight, fc1_.bias, Activation::kGeluErf, {}}, where);
    b.matmul({rows, hidden, fc2_.weight, fc2_.bias, Activation::kNone, {}}, where);
  };
  return vit_.encode(backend, preprocess(image), projector, control);
}

}  // namespace

std::unique_ptr<Tower> load_internvl(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory);

std::unique_ptr<Tower> load_internvl(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory) {
  return std::make_unique<InternVlTower>(file, memory);
}

}  // namespace trimtok
