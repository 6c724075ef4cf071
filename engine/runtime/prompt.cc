#include "engine/runtime/prompt.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/core/error.h"

namespace trimtok {
namespace {

std::vector<std::string_view> split_at_markers(std::string_view prompt) {
  std::vector<std::string_view> pieces;
  size_t start = 0;
  for (size_t at = prompt.find(kImageMarker); at != std::string_view::npos;
       at = prompt.find(kImageMarker, start)) {
    pieces.push_back(prompt.substr(start, at - start));
    start = at + kImageMarker.size();
  }
  pieces.push_back(prompt.substr(start));
  return pieces;
}

class PlanBuilder {
 public:
  PlanBuilder(const Tokenizer& tokenizer, SequencePlan& plan) : tokenizer_(tokenizer), plan_(plan) {}

  void text(std::string_view text) { pending_ += text; }

  void rows(int32_t image, const PromptPart& part) {
    flush();
    plan_.segments.push_back({{}, image, part.row_start, part.n_rows});
  }

  void flush() {
    std::vector<int32_t> ids = tokenizer_.encode(pending_, /*parse_special=*/true);
    pending_.clear();
    // A template may have printed BOS already.
    const bool at_start = plan_.segments.empty();
    if (at_start && tokenizer_.add_bos() && tokenizer_.bos() >= 0 &&
        (ids.empty() || ids.front() != tokenizer_.bos())) {
      ids.insert(ids.begin(), tokenizer_.bos());
    }
    if (!ids.empty()) plan_.segments.push_back({std::move(ids), -1, 0, 0});
  }

 private:
  const Tokenizer& tokenizer_;
  SequencePlan& plan_;
  std::string pending_;
};

// Text advances all components by one. A run of picture rows lies where its places say, counted from the
// position that its first row would have had as text; the text behind it goes on after the largest component
// (spec 9.5). Runs without text between them count from where the first one begins.
void place_rows(SequencePlan& plan, const std::vector<ImagePlan>& plans, int32_t n_pos) {
  const auto n_rows = static_cast<size_t>(plan.n_rows);
  plan.n_pos = n_pos;
  plan.positions.resize(n_rows * static_cast<size_t>(n_pos));
  const auto set = [&](size_t row, const std::array<int32_t, 3>& position) {
    for (size_t c = 0; c < static_cast<size_t>(n_pos); ++c) plan.positions[c * n_rows + row] = position[c];
  };
  size_t row = 0;
  int32_t next = 0, base = 0;
  bool after_rows = false;
  for (const Segment& segment : plan.segments) {
    const auto size = static_cast<size_t>(segment.size());
    const auto* places = segment.image < 0 ? nullptr : &plans[static_cast<size_t>(segment.image)].places;
    if (n_pos == 1 || places == nullptr || places->empty()) {
      for (size_t i = 0; i < size; ++i, ++next) set(row++, {next, next, next});
      after_rows = false;
      continue;
    }
    if (!after_rows) base = next;
    after_rows = true;
    for (size_t i = 0; i < size; ++i) {
      const RowPlace& place = (*places)[static_cast<size_t>(segment.row_start) + i];
      set(row++, {base + place.t, base + place.h, base + place.w});
      next = std::max(next, base + std::max({place.t, place.h, place.w}) + 1);
    }
  }
  plan.next_position = next;
}

}  // namespace

std::vector<ImagePlan> plan_video(const Tower& tower, const std::vector<PictureSize>& frames, double fps,
                                  std::string& prompt) {
  if (!std::isfinite(fps) || fps <= 0.0) {
    fail(ErrorCode::kInvalidArgument, "[fps] is %g, must be a positive number", fps);
  }
  if (frames.empty()) fail(ErrorCode::kInvalidArgument, "[video] has no frames, must have at least one");
  for (const PictureSize& frame : frames) {
    if (frame.width == frames[0].width && frame.height == frames[0].height) continue;
    fail(ErrorCode::kInvalidArgument, "[video] frames of %d x %d and %d x %d pixels, must have one size",
         frames[0].width, frames[0].height, frame.width, frame.height);
  }
  const size_t at = prompt.find(kImageMarker);
  if (at == std::string::npos || prompt.find(kImageMarker, at + kImageMarker.size()) != std::string::npos) {
    fail(ErrorCode::kInvalidArgument, "[prompt] must have one image marker for a video, it has %s",
         at == std::string::npos ? "none" : "several");
  }
  std::vector<ImagePlan> plans =
      tower.plan_video(frames[0].width, frames[0].height, static_cast<int32_t>(frames.size()), fps);
  for (size_t i = 1; i < plans.size(); ++i) prompt.insert(at, kImageMarker);
  return plans;
}

SequencePlan plan_sequence(const Tokenizer& tokenizer, std::string_view prompt,
                           const std::vector<ImagePlan>& plans, bool bidirectional, int32_t n_pos) {
  const std::vector<std::string_view> pieces = split_at_markers(prompt);
  if (pieces.size() - 1 != plans.size()) {
    fail(ErrorCode::kInvalidArgument,
         "[prompt] has %zu image markers for %zu images; write one marker per image or none at all",
         pieces.size() - 1, plans.size());
  }

  SequencePlan plan;
  PlanBuilder builder(tokenizer, plan);
  builder.text(pieces[0]);
  for (size_t k = 0; k < plans.size(); ++k) {
    for (const PromptPart& part : plans[k].parts) {
      if (part.n_rows > 0) builder.rows(static_cast<int32_t>(k), part);
      builder.text(part.text);
    }
    builder.text(pieces[k + 1]);
  }
  builder.flush();

  for (const Segment& segment : plan.segments) {
    plan.n_rows += segment.size();
    if (segment.image >= 0) plan.n_visual += segment.n_rows;
  }
  if (plan.n_rows > INT32_MAX) {
    fail(ErrorCode::kInvalidArgument, "[prompt] is %lld rows long, at most %d can be addressed",
         static_cast<long long>(plan.n_rows), INT32_MAX);
  }
  place_rows(plan, plans, n_pos);

  plan.visible_end.reserve(static_cast<size_t>(plan.n_rows));
  int32_t index = 0;
  for (const Segment& segment : plan.segments) {
    const int32_t end = index + static_cast<int32_t>(segment.size());
    const bool sees_ahead = bidirectional && segment.image >= 0;
    for (; index < end; ++index) plan.visible_end.push_back(sees_ahead ? end : index + 1);
  }
  return plan;
}

}  // namespace trimtok
