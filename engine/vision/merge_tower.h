// What the Qwen vision towers share: pictures at their own resolution, 2-D RoPE, blocks of merge x merge
// patches joined to one row by a two-layer projector. A family's file fills the parts; an absent part is a
// step that the family does not have.
#pragma once

#include <memory>
#include <vector>

#include "engine/vision/dynamic_grid.h"
#include "engine/vision/tower.h"
#include "engine/vision/vit.h"

namespace trimtok {

// Rows that the language model adds after its k-th layer, made from the output of a tower layer.
struct DeepstackTap {
  int32_t layer = 0;
  Norm norm;  // LayerNorm over a whole cell
  Linear fc1, fc2;
};

// How frames of a video enter the prompt: two of them are one group.
struct VideoRules {
  PixelLimits limits;
  bool limits_are_for_all_frames = false;
  // Groups of one run of rows: t advances by this much per second, or, where it is 0, by one per group.
  double places_per_second = 0;
  // Every group is a picture of its own behind "<t seconds>" instead.
  bool timestamps = false;
};

struct MergeTowerParts {
  TowerInfo info;
  VitConfig config;
  PixelLimits limits;  // of the released processors, as those of video: files do not hold them
  VideoRules video;
  int32_t merge = 2;
  // Side of a window in cells; 0: none. Layers that are not full see only the patches of their own window.
  int32_t window = 0;
  std::vector<bool> full;  // [n_layers], with windows only

  std::shared_ptr<const WeightBinder::Storage> storage;
  Linear frame0;          // [width, 3 * patch^2]: kernel of the first frame of a pair
  ConstMatrix frame1;     // of the second one; a still picture is both
  ConstMatrix positions;  // [side^2, width], interpolated to the picture's grid; absent: none
  int32_t position_side = 0;
  std::vector<VitLayer> layers;
  Norm post_ln;  // per patch
  Linear mm0, mm2;
  std::vector<DeepstackTap> taps;  // in the order of their layers
};

// merge, patch and head sizes, checked against each other. Throws Error(kFormat).
void read_merge_config(const GgufFile& file, MergeTowerParts& parts);
// The weights that all of them have: patch kernels, layers, post_ln, mm.0, mm.2.
void bind_merge_weights(WeightBinder& binder, const std::shared_ptr<const GgufFile>& file,
                        MergeTowerParts& parts);
// After binder.finish(): what follows from the weights for TowerInfo; names, templates are the family's.
void fill_merge_info(const WeightBinder& binder, MergeTowerParts& parts);
std::unique_ptr<Tower> make_merge_tower(MergeTowerParts parts);

}  // namespace trimtok
