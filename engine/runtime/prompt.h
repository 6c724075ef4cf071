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
  std::vector<int32_t> positions;    // [n_rows]
  std::vector<int32_t> visible_end;  // [n_rows]
  int32_t next_position = 0;
};

// Cuts the prompt at the markers, puts the parts of plans[k] at marker k and tokenises the text between
// runs of rows: wrapper text of a picture merges with its neighbours before tokenising, every piece is
// encoded on its own, BOS comes once (spec 10.1). Throws Error(kInvalidArgument) when the number of
// markers differs from the number of plans. bidirectional: see TowerInfo.
SequencePlan plan_sequence(const Tokenizer& tokenizer, std::string_view prompt,
                           const std::vector<ImagePlan>& plans, bool bidirectional);

}  // namespace trimtok
