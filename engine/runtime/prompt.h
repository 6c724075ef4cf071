// From prompt text and picture plans to the layout of a sequence. Pure functions, nothing runs here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"
#include "engine/vision/tower.h"

namespace trimtok {

// Marks the place of a picture in the text that reaches the engine: U+FDD1, a noncharacter, so that no
// text from outside can forge one. The Python front end turns "<image>" and template placeholders into it.
inline constexpr std::string_view kImageMarker = "\xEF\xB7\x91";

struct PictureSize {
  int32_t width = 0;
  int32_t height = 0;
};

// A run of token ids or of picture rows.
struct Segment {
  std::vector<int32_t> ids;  // text when not empty
  int32_t image = -1;        // else rows [row_start, row_start + n_rows) of this picture
  int64_t row_start = 0;
  int64_t n_rows = 0;
  int64_t size() const { return image < 0 ? static_cast<int64_t>(ids.size()) : n_rows; }
};

struct SequencePlan {
  std::vector<Segment> segments;
  int64_t n_rows = 0;
  int64_t n_visual = 0;
  int32_t n_pos = 1;                 // components of a position
  std::vector<int32_t> positions;    // [n_pos, n_rows]
  std::vector<int32_t> visible_end;  // [n_rows]
  int32_t next_position = 0;
};

// Plans of a video's frames (see Tower::plan_video), which stand at the one marker of `prompt`; that marker
// becomes one per plan. Throws Error(kInvalidArgument) for frames of different sizes, another number of
// markers and an fps that is no positive number.
std::vector<ImagePlan> plan_video(const Tower& tower, const std::vector<PictureSize>& frames, double fps,
                                  std::string& prompt);

// Cuts the prompt at the markers, puts the parts of plans[k] at marker k and tokenises the text between
// runs of rows: wrapper text of a picture merges with its neighbours before tokenising, every piece is
// encoded on its own, BOS comes once (spec 10.1). Throws Error(kInvalidArgument) when the number of
// markers differs from the number of plans. bidirectional: see TowerInfo; n_pos: see DecoderInfo.
SequencePlan plan_sequence(const Tokenizer& tokenizer, std::string_view prompt,
                           const std::vector<ImagePlan>& plans, bool bidirectional, int32_t n_pos = 1);

}  // namespace trimtok
