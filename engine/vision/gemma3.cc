// Gemma 3 (clip.projector_type "gemma3", spec 8.7): SigLIP on a stretched square picture, blocks of patches
// averaged, RMSNorm, one matrix. The rows of a picture see each other in the language model.
#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "engine/gguf/quote.h"
#include "engine/vision/tower.h"
#include "engine/vision/vit.h"

namespace trimtok {
namespace {

constexpr int32_t kMaxEmbd = 1 << 20;

// Spec 11.2. The tokenizer adds no second BOS.
constexpr const char* kTemplate = R"jinja(
{{- bos_token }}
{%- set ns = namespace(prefix='', chat=messages) %}
{%- if messages[0].role == 'system' %}
  {%- set ns.prefix = (messages[0].content if messages[0].content is string else messages[0].content[0].text) ~ '\n\n' %}
  {%- set ns.chat = messages[1:] %}
{%- endif %}
{%- for m in ns.chat %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('roles must alternate user/assistant/user/assistant/...') }}
  {%- endif %}
  {{- '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\n' }}
  {{- ns.prefix if loop.first else '' }}
  {%- if m.content is string %}
    {{- m.content | trim }}
  {%- else %}
    {%- for part in m.content %}
      {{- '<start_of_image>' if part.type == 'image' else (part.text | trim) }}
    {%- endfor %}
  {%- endif %}
  {{- '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<start_of_turn>model\n' }}
{%- endif %})jinja";

class Gemma3Tower final : public Tower {
 public:
  Gemma3Tower(const std::shared_ptr<const GgufFile>& file, const MemoryPtr& memory);

  const TowerInfo& info() const override { return info_; }
  ImagePlan plan(int32_t width, int32_t height) const override;
  std::vector<Image> preprocess(const ImageView& image) const override;
  EncodedImage encode(Backend& backend, const ImageView& image, const RunControl& control) const override;

 private:
  void bind(const std::shared_ptr<const GgufFile>& file, const MemoryPtr& memory);
  void embed(Backend& backend, const Image& image, const Matrix& x) const;
  void pool(Backend& backend, const Matrix& x, const Matrix& pooled) const;
  int32_t cells() const { return config_.grid / pool_; }  // per side

  TowerInfo info_;
  VitConfig config_;
  int32_t pool_ = 4;  // patches per side of a cell
  std::shared_ptr<const WeightBinder::Storage> storage_;
  Linear patch_embd_;
  ConstMatrix position_embd_;  // [patches, width]
  std::vector<VitLayer> layers_;
  Norm post_ln_;
  const float* soft_norm_ = nullptr;  // [width]
  ConstMatrix projection_;            // [n_embd, width]
};

// Hyper-parameters: the common ones and projector.scale_factor.
Gemma3Tower::Gemma3Tower(const std::shared_ptr<const GgufFile>& file, const MemoryPtr& memory)
    : config_(read_vit_config(*file)) {
  pool_ = static_cast<int32_t>(file->get_int("clip.vision.projector.scale_factor", 1, config_.grid, 4));
  if (config_.grid % pool_ != 0) {
    fail(ErrorCode::kFormat,
         "[vision tower] %s: %d patches per side, expected a multiple of the %d that are averaged",
         quote_path(file->path()).c_str(), config_.grid, pool_);
  }
  bind(file, memory);
  info_.projector = "gemma3";
  info_.family = "Gemma 3";
  info_.placeholder = "<start_of_image>";
  info_.fallback_template = kTemplate;
  info_.bidirectional = true;
  info_.n_layers = config_.n_layers;
  info_.width = config_.width;
  info_.patch_size = config_.patch_size;
  info_.image_size = config_.image_size;
  info_.weight_bytes = storage_->weight_bytes;
}

void Gemma3Tower::bind(const std::shared_ptr<const GgufFile>& file, const MemoryPtr& memory) {
  const int64_t width = config_.width;
  WeightBinder binder(file, "vision tower", memory);
  patch_embd_.weight =
      binder.flattened("v.patch_embd.weight", width, int64_t{3} * config_.patch_size * config_.patch_size);
  patch_embd_.bias = binder.optional_vector("v.patch_embd.bias", width);
  position_embd_ = binder.matrix("v.position_embd.weight", config_.n_patches(), width);
  layers_ = bind_vit_layers(binder, file, config_, config_.n_layers);
  post_ln_ = bind_norm(binder, "v.post_ln", width);
  soft_norm_ = binder.vector("mm.soft_emb_norm.weight", width);
  projection_ = binder.transposed("mm.input_projection.weight", -1, width);
  binder.finish();
  storage_ = binder.storage();
  if (projection_.rows > kMaxEmbd) {
    fail(ErrorCode::kFormat, "[vision tower] %s: rows of %lld values, expected 1 to %d",
         quote_path(file->path()).c_str(), static_cast<long long>(projection_.rows), kMaxEmbd);
  }
  info_.n_embd = static_cast<int32_t>(projection_.rows);
}

ImagePlan Gemma3Tower::plan(int32_t width, int32_t height) const {
  check_image_size(width, height);
  ImagePlan plan;
  plan.n_rows = int64_t{cells()} * cells();
  plan.n_views = 1;
  plan.view_width = plan.view_height = config_.image_size;
  plan.grids.push_back({0, cells(), cells(), cells()});
  // The blank lines are part of the picture: they join those around it to single tokens.
  plan.parts = {{"\n\n<start_of_image>", 0, 0}, {"", 0, plan.n_rows}, {"<end_of_image>\n\n", 0, 0}};
  // Pixels beyond the last whole patch belong to no row.
  const double side = static_cast<double>(pool_) * config_.patch_size / config_.image_size;
  for (int32_t y = 0; y < cells(); ++y) {
    for (int32_t x = 0; x < cells(); ++x) {
      plan.boxes.push_back({static_cast<float>(x * side * width), static_cast<float>(y * side * height),
                            static_cast<float>((x + 1) * side * width),
                            static_cast<float>((y + 1) * side * height)});
    }
  }
  return plan;
}

std::vector<Image> Gemma3Tower::preprocess(const ImageView& image) const {
  check_image(image);
  std::vector<Image> views;
  views.push_back(resize(image, config_.image_size, config_.image_size, Filter::kBilinear));
  return views;
}

// x: [patches, width] = patches . kernel + bias + positions.
void Gemma3Tower::embed(Backend& backend, const Image& image, const Matrix& x) const {
  const char* where = "vision patches";
  const Arena::Mark mark(backend.arena());
  std::vector<float> pixels(3 * static_cast<size_t>(image.width) * static_cast<size_t>(image.height));
  normalise(image.view(), config_.mean, config_.std, pixels.data());
  std::vector<int32_t> ids(static_cast<size_t>(x.rows));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  backend.gather_rows({x, position_embd_, backend.upload(std::span<const int32_t>(ids))}, where);
  const Matrix patches = backend.arena().matrix(x.rows, patch_embd_.weight.cols);
  backend.patchify({patches, backend.upload(std::span<const float>(pixels)), 3, image.height, image.width,
                    config_.patch_size},
                   where);
  backend.matmul({x, patches, patch_embd_.weight, patch_embd_.bias, Activation::kNone, x}, where);
}

// pooled: [cells, width], the mean of the patches of every cell.
void Gemma3Tower::pool(Backend& backend, const Matrix& x, const Matrix& pooled) const {
  const Arena::Mark mark(backend.arena());
  const int32_t per_cell = pool_ * pool_;
  std::vector<int32_t> ids, begin{0};
  for (int32_t cell = 0; cell < cells() * cells(); ++cell) {
    const int32_t top = cell / cells() * pool_, left = cell % cells() * pool_;
    for (int32_t i = 0; i < per_cell; ++i) {
      ids.push_back((top + i / pool_) * config_.grid + left + i % pool_);
    }
    begin.push_back(static_cast<int32_t>(ids.size()));
  }
  const std::vector<float> weights(ids.size(), 1.0f / static_cast<float>(per_cell));
  const Matrix sorted = backend.arena().matrix(x.rows, x.cols);
  backend.gather_rows({sorted, x, backend.upload(std::span<const int32_t>(ids))}, "vision pooling");
  backend.sum_rows({pooled, sorted, backend.upload(std::span<const float>(weights)),
                    backend.upload(std::span<const int32_t>(begin))},
                   "vision pooling");
}

EncodedImage Gemma3Tower::encode(Backend& backend, const ImageView& image, const RunControl& control) const {
  check_image(image);
  const Arena::Mark mark(backend.arena());
  const auto n_layers = static_cast<int64_t>(layers_.size());
  control.step("encode", 0, n_layers);
  const Matrix x = backend.arena().matrix(config_.n_patches(), config_.width);
  embed(backend, preprocess(image)[0], x);
  control.emit(backend, "patch_embd", -1, x);
  const std::vector<int32_t> begin(static_cast<size_t>(x.rows), 0);
  const std::vector<int32_t> end(static_cast<size_t>(x.rows), static_cast<int32_t>(x.rows));
  const RowIntervals everything{backend.upload(std::span<const int32_t>(begin)),
                                backend.upload(std::span<const int32_t>(end))};
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto index = static_cast<int32_t>(i);
    run_vit_layer(backend, config_, layers_[i], index, x, everything);
    control.emit(backend, "layer_out", index, x);
    control.step("encode", index + 1, n_layers);
  }
  apply_norm(backend, config_, post_ln_, x, x, "vision post_ln");
  control.emit(backend, "vision_out", -1, x);

  const Matrix pooled = backend.arena().matrix(int64_t{cells()} * cells(), config_.width);
  pool(backend, x, pooled);
  backend.rms_norm({pooled, pooled, soft_norm_, config_.eps}, "vision soft_emb_norm");
  EncodedImage out;
  const int64_t stride = row_bytes(Dtype::kF32, info_.n_embd);
  out.storage = backend.buffer(static_cast<size_t>(pooled.rows * stride));
  out.rows = {out.storage.data(), Dtype::kF32, pooled.rows, info_.n_embd, stride};
  backend.matmul({out.rows, pooled, projection_, nullptr, Activation::kNone, {}}, "vision projector");
  control.emit(backend, "view_rows", -1, out.rows);
  check_finite_rows(backend, out.rows);
  return out;
}

}  // namespace

std::unique_ptr<Tower> load_gemma3_tower(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory);

std::unique_ptr<Tower> load_gemma3_tower(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory) {
  return std::make_unique<Gemma3Tower>(file, memory);
}

}  // namespace trimtok
