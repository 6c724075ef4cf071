// A ViT over square views, each encoded on its own: what towers that cut pictures into tiles share.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/vision/tower.h"
#include "engine/vision/vit.h"

namespace trimtok {

// From the features of some views to their rows in the language model.
struct ViewProjector {
  int64_t rows_per_view = 0;
  int64_t n_embd = 0;
  // features: [views * patches, width], views in order, patches in raster order; rows: [views *
  // rows_per_view, n_embd]
  std::function<void(Backend& backend, const Matrix& features, const Matrix& rows)> run;
};

class SquareVit {
 public:
  explicit SquareVit(VitConfig config) : config_(config) {}
  // Binds v.patch_embd, v.position_embd, the layers, and, where the file has them, v.class_embd and
  // v.post_ln. binder.finish() and storage are the caller's.
  void bind(WeightBinder& binder, const std::shared_ptr<const GgufFile>& file);

  const VitConfig& config() const { return config_; }
  // The rows of all views one below the other. Taps and errors: see Tower::encode. The class token, when
  // there is one, goes first through the layers and is then dropped.
  EncodedImage encode(Backend& backend, std::span<const Image> views, const ViewProjector& projector,
                      const RunControl& control) const;
  // What TowerInfo says about the tower itself.
  void describe(TowerInfo& info) const;

 private:
  int64_t n_class() const { return class_embd_ != nullptr ? 1 : 0; }
  int64_t n_tokens() const { return config_.n_patches() + n_class(); }
  int64_t views_per_group() const;
  Matrix embed(Backend& backend, std::span<const Image> views) const;

  VitConfig config_;
  const float* class_embd_ = nullptr;
  Linear patch_embd_;
  ConstMatrix position_embd_;  // [n_tokens, width], the class token's row first
  std::vector<VitLayer> layers_;
  Norm post_ln_;
};

// Joins blocks of factor x factor cells of every view (spec 6.6): features [views * grid * grid, C], factor
// a divisor of grid, to [views * (grid / factor)^2, factor^2 * C] in the arena.
Matrix pixel_shuffle(Backend& backend, const Matrix& features, int32_t grid, int32_t factor,
                     const char* where);

// clip.vision.projector.scale_factor, a divisor of the grid. Throws Error(kFormat).
int32_t read_shuffle_factor(const GgufFile& file, const VitConfig& config);

}  // namespace trimtok
