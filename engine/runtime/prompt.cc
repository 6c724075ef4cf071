#include "engine/runtime/prompt.h"

#include <numeric>

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

}  // namespace

SequencePlan plan_sequence(const Tokenizer& tokenizer, std::string_view prompt,
                           const std::vector<ImagePlan>& plans, bool bidirectional) {
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
  plan.positions.resize(static_cast<size_t>(plan.n_rows));
  std::iota(plan.positions.begin(), plan.positions.end(), 0);
  plan.next_position = static_cast<int32_t>(plan.n_rows);

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
