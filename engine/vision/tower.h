// The interface that one tower file (one projector family) fills.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/backend.h"
#include "engine/core/row_grid.h"
#include "engine/core/run_control.h"
#include "engine/gguf/file.h"
#include "engine/vision/image.h"

namespace trimtok {

// Where a row comes from in the picture, in pixels of the original; empty (x1 <= x0) for rows that show
// no place (newline rows). Used to draw what was kept.
struct RowBox {
  float x0 = 0, y0 = 0, x1 = 0, y1 = 0;
};

// Place of a row in an M-RoPE decoder, counted from where its run of rows begins. Runs without text between
// them (groups of a video) count from where the first of them begins.
struct RowPlace {
  int32_t t = 0, h = 0, w = 0;
};

// How one picture enters the prompt: text around and between runs of rows, in order.
struct PromptPart {
  std::string text;       // special tokens allowed; empty when this part is rows
  int64_t row_start = 0;  // rows [row_start, row_start + n_rows) of the picture
  int64_t n_rows = 0;
};

// Everything about a picture that follows from its size alone: costs nothing, runs nothing.
struct ImagePlan {
  int64_t n_rows = 0;
  int32_t n_views = 0;     // pictures (overview, tiles) that go through the tower
  int32_t view_width = 0;  // pixels of each view
  int32_t view_height = 0;
  std::vector<RowGrid> grids;  // rows that are neighbours in the picture; they do not overlap
  std::vector<PromptPart> parts;
  std::vector<RowBox> boxes;     // [n_rows]
  std::vector<RowPlace> places;  // [n_rows]; empty: rows follow one another
};

// What a caller may set for one call; 0 is the family's own value.
struct ViewOptions {
  int64_t min_pixels = 0;
  int64_t max_pixels = 0;
};

struct EncodedImage {
  Buffer storage;  // of the backend that encoded it
  // [n_rows, n_embd * (1 + n_extra)]: the row that enters the LM, then what is added after its first layers.
  Matrix rows;
};

struct TowerInfo {
  std::string projector;          // clip.projector_type
  std::string family;             // "LLaVA", for people
  std::string placeholder;        // what the family's published chat template prints for a picture: "<image>"
  std::string fallback_template;  // Jinja, for files without one; empty: none published
  int32_t n_embd = 0;             // width of a row without extras
  int32_t n_extra = 0;            // extra slices per row (deepstack)
  bool composite_alpha = false;   // transparent pictures are laid over white; else their alpha is dropped
  bool bidirectional = false;     // the rows of one picture see each other in the LM
  int32_t frames_per_group = 1;   // frames of a video that become one run of rows; 1: frames are pictures
  int32_t n_layers = 0;
  int32_t width = 0;
  int32_t patch_size = 0;
  int32_t image_size = 0;
  size_t weight_bytes = 0;
};

class Tower {
 public:
  virtual ~Tower() = default;
  virtual const TowerInfo& info() const = 0;
  virtual ImagePlan plan(int32_t width, int32_t height) const = 0;
  // The views as 8-bit pictures, in the order in which they are encoded.
  virtual std::vector<Image> preprocess(const ImageView& image) const = 0;
  // Taps: "patch_embd" (positions added), "pre_ln", per layer "layer_out", then "vision_out"
  // [views * patches, width] and "view_rows" [views * patches', n_embd]. A picture of many views is encoded
  // in groups: each tap comes once per group, in order. Throws Error(kNumerics) when a row is not finite.
  virtual EncodedImage encode(Backend& backend, const ImageView& image, const RunControl& control) const = 0;
  // Video, for towers with frames_per_group > 1: its frames have one size and are cut into groups in order,
  // the last one filled up with the last frame. One plan and one encoding per group; the plans follow each
  // other in the prompt. fps: frames per second of the frames given. Here: Error(kUnsupported).
  virtual std::vector<ImagePlan> plan_video(int32_t width, int32_t height, int32_t n_frames,
                                            double fps) const;
  // frames: of one group, out of n_frames in the whole video.
  virtual EncodedImage encode_group(Backend& backend, std::span<const ImageView> frames, int32_t n_frames,
                                    const RunControl& control) const;
  // The same tower (weights are shared) with other settings. Throws Error(kInvalidArgument) for settings that
  // the family has not or that cannot be met; here: any.
  virtual std::shared_ptr<const Tower> with_options(const ViewOptions& options) const;
};

// Reads clip.projector_type and dispatches through towers.def. An unknown one is an Error(kUnsupported)
// listing those that work. Weights go to `memory`, that of the backend which encode() will get.
std::unique_ptr<Tower> load_tower(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory = nullptr);
// Values of clip.projector_type and the families that they stand for, from towers.def.
std::vector<std::pair<std::string, std::string>> supported_projectors();

}  // namespace trimtok
