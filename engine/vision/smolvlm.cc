// Idefics3, SmolVLM and SmolVLM2 (clip.projector_type "idefics3", spec 8.2): SigLIP, pixel shuffle, one
// linear layer.
//
// Follows the original implementation: a picture is enlarged or reduced until its longer side has
// preproc_image_size pixels, stretched to whole tiles, and cut; the whole picture comes last as one more
// view. Every view has its own markers in the prompt.

#include <algorithm>
#include <cmath>

#include "engine/gguf/quote.h"
#include "engine/vision/alpha.h"
#include "engine/vision/square_vit.h"
#include "engine/vision/tiles.h"

namespace trimtok {
namespace {

constexpr int32_t kMaxEmbd = 1 << 20;
// The original processor never makes a side longer than this.
constexpr int32_t kMaxLongestSide = 4096;
constexpr int32_t kMaxTilesPerSide = 16;
constexpr const char* kAround = "<fake_token_around_image>";

// The published template (spec 11.2). A picture at the start follows "User:" without a space.
constexpr const char* kTemplate = R"jinja(
{{- '<|im_start|>' }}
{%- for m in messages %}
  {%- set parts = [{'type': 'text', 'text': m.content}] if m.content is string else m.content %}
  {{- (m.role | capitalize) ~ (':' if parts and parts[0].type == 'image' else ': ') }}
  {%- for part in parts %}
    {{- part.text if part.type == 'text' else ('<image>' if part.type == 'image' else '') }}
  {%- endfor %}
  {{- '<end_of_utterance>\n' }}
{%- endfor %}
{{- 'Assistant:' if add_generation_prompt else '' }})jinja";

struct PixelSize {
  int32_t width = 0;
  int32_t height = 0;
};

// The other side of a rectangle of the same aspect, cut to whole pixels: what Python's int() leaves. The
// order of the operations is the original's, a quotient rounded the other way would move a side by a pixel.
PixelSize with_longer_side(int32_t width, int32_t height, int32_t longer) {
  const double aspect = static_cast<double>(width) / height;
  if (width >= height) return {longer, static_cast<int32_t>(longer / aspect)};
  return {static_cast<int32_t>(longer * aspect), longer};
}

PixelSize enlarged(int32_t width, int32_t height, int32_t longest) {
  PixelSize size = with_longer_side(width, height, longest);
  int32_t& shorter = width >= height ? size.height : size.width;
  shorter = std::max(shorter + shorter % 2, 1);
  return size;
}

int32_t whole_tiles(int32_t pixels, int32_t tile) {
  return std::max((pixels + tile - 1) / tile, 1);
}

TileGrid tiles_of(const PixelSize& size, int32_t tile) {
  const int32_t longer = whole_tiles(std::max(size.width, size.height), tile);
  const PixelSize canvas = with_longer_side(size.width, size.height, longer * tile);
  return {whole_tiles(canvas.width, tile), whole_tiles(canvas.height, tile)};
}

class SmolVlmTower final : public Tower {
 public:
  SmolVlmTower(const std::shared_ptr<const GgufFile>& file, const MemoryPtr& memory);

  const TowerInfo& info() const override { return info_; }
  ImagePlan plan(int32_t width, int32_t height) const override;
  std::vector<Image> preprocess(const ImageView& image) const override;
  EncodedImage encode(Backend& backend, const ImageView& image, const RunControl& control) const override;

 private:
  void read_longest_side(const GgufFile& file);
  int32_t tile() const { return vit_.config().image_size; }
  int32_t cells() const { return vit_.config().grid / factor_; }

  TowerInfo info_;
  SquareVit vit_;
  int32_t longest_side_ = 0;
  int32_t factor_ = 0;
  ConstMatrix fc_;  // [n_embd, factor^2 * width]
  std::shared_ptr<const WeightBinder::Storage> storage_;
};

SmolVlmTower::SmolVlmTower(const std::shared_ptr<const GgufFile>& file, const MemoryPtr& memory)
    : vit_(read_vit_config(*file)) {
  const VitConfig& config = vit_.config();
  factor_ = read_shuffle_factor(*file, config);
  read_longest_side(*file);
  WeightBinder binder(file, "vision tower", memory);
  vit_.bind(binder, file);
  fc_ = binder.matrix("mm.model.fc.weight", -1, int64_t{factor_} * factor_ * config.width);
  binder.finish();
  storage_ = binder.storage();
  if (fc_.rows > kMaxEmbd) {
    fail(ErrorCode::kFormat, "[vision tower] %s: rows of %lld values, expected 1 to %d",
         quote_path(file->path()).c_str(), static_cast<long long>(fc_.rows), kMaxEmbd);
  }
  vit_.describe(info_);
  info_.projector = "idefics3";
  info_.family = "SmolVLM";
  info_.placeholder = "<image>";
  info_.fallback_template = kTemplate;
  info_.n_embd = static_cast<int32_t>(fc_.rows);
  info_.composite_alpha = true;
  info_.weight_bytes = storage_->weight_bytes;
}

// Early files lack the key; every released model uses four tiles.
void SmolVlmTower::read_longest_side(const GgufFile& file) {
  const char* key = "clip.vision.preproc_image_size";
  const int32_t fallback = std::min(4 * tile(), kMaxLongestSide);
  longest_side_ = static_cast<int32_t>(file.get_int(key, 1, INT32_MAX, fallback));
  longest_side_ = std::min(longest_side_, kMaxLongestSide);
  if (whole_tiles(longest_side_, tile()) > kMaxTilesPerSide) {
    fail(ErrorCode::kFormat,
         "[vision tower] %s: %s %d and clip.vision.image_size %d make %d tiles a side, expected at most %d",
         quote_path(file.path()).c_str(), key, longest_side_, tile(), whole_tiles(longest_side_, tile()),
         kMaxTilesPerSide);
  }
}

ImagePlan SmolVlmTower::plan(int32_t width, int32_t height) const {
  check_image_size(width, height);
  const TileGrid tiles = tiles_of(enlarged(width, height, longest_side_), tile());
  const VitConfig& config = vit_.config();
  ImagePlan plan = plan_tiles(tiles, {tile(), cells(), double(config.patch_size) * factor_}, width, height);
  const int64_t n = int64_t{cells()} * cells();
  int64_t row = 0;
  const char* before = "";
  if (tiles.is_cut()) {
    for (int32_t t = 0; t < tiles.n_tiles(); ++t, row += n) {
      const int32_t r = t / tiles.cols + 1, c = t % tiles.cols + 1;
      plan.parts.push_back({format("%s%s<row_%d_col_%d>", before, kAround, r, c), 0, 0});
      plan.parts.push_back({"", row, n});
      before = c == tiles.cols ? "\n" : "";
    }
    before = "\n\n";  // in one piece: it is one token of the vocabulary
  }
  plan.parts.push_back({format("%s%s<global-img>", before, kAround), 0, 0});
  plan.parts.push_back({"", row, n});
  plan.parts.push_back({kAround, 0, 0});
  return plan;
}

std::vector<Image> SmolVlmTower::preprocess(const ImageView& image) const {
  check_image(image);
  const PixelSize size = enlarged(image.width, image.height, longest_side_);
  const TileGrid tiles = tiles_of(size, tile());
  // Two steps, as the original: one resampling straight to the canvas would give other pixels.
  const Image scaled = resize_with_alpha(image, size.width, size.height, Filter::kLanczos);
  const Image canvas =
      resize_with_alpha(scaled.view(), tiles.cols * tile(), tiles.rows * tile(), Filter::kLanczos);
  std::vector<Image> views;
  if (tiles.is_cut()) views = cut_tiles(over_white(canvas.view()).view(), tiles, tile());
  const Image whole = resize_with_alpha(canvas.view(), tile(), tile(), Filter::kLanczos);
  views.push_back(over_white(whole.view()));
  return views;
}

EncodedImage SmolVlmTower::encode(Backend& backend, const ImageView& image, const RunControl& control) const {
  const char* where = "vision projector";
  ViewProjector projector;
  projector.rows_per_view = int64_t{cells()} * cells();
  projector.n_embd = info_.n_embd;
  projector.run = [&](Backend& b, const Matrix& features, const Matrix& rows) {
    const Arena::Mark mark(b.arena());
    const Matrix x = pixel_shuffle(b, features, vit_.config().grid, factor_, where);
    b.matmul({rows, x, fc_, nullptr, Activation::kNone, {}}, where);
  };
  return vit_.encode(backend, preprocess(image), projector, control);
}

}  // namespace

std::unique_ptr<Tower> load_smolvlm(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory);

std::unique_ptr<Tower> load_smolvlm(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory) {
  return std::make_unique<SmolVlmTower>(file, memory);
}

}  // namespace trimtok
