// Qwen3-VL (clip.projector_type "qwen3vl_merger", spec 8.5): a learned table of positions interpolated to the
// picture's grid besides 2-D RoPE, and rows for the first layers of the language model taken from some layers
// of the tower (deepstack).
#include <cmath>

#include "engine/core/error.h"
#include "engine/gguf/quote.h"
#include "engine/vision/merge_tower.h"
#include "engine/vision/qwen_template.h"

namespace trimtok {
namespace {

// Of the released preprocessor_config.json: 256^2 and 4096^2.
constexpr PixelLimits kLimits{65536, 16777216};
// Of the released video_preprocessor_config.json, for all frames together.
constexpr PixelLimits kVideoLimits{4096, 25165824};

// clip.vision.is_deepstack_layers says the same as the tensors do.
void bind_deepstack(WeightBinder& binder, MergeTowerParts& parts) {
  const int64_t cell = int64_t{parts.merge} * parts.merge * parts.config.width;
  for (int32_t i = 0; i < parts.config.n_layers; ++i) {
    const std::string name = "v.deepstack." + std::to_string(i) + ".";
    if (!binder.has(name + "fc1.weight")) continue;
    DeepstackTap tap;
    tap.layer = i;
    tap.norm = bind_norm(binder, name + "norm", cell);
    tap.fc1 = bind_linear(binder, name + "fc1", -1, cell);
    const int64_t hidden = tap.fc1.weight.data != nullptr ? tap.fc1.weight.rows : -1;
    const int64_t n_embd = parts.mm2.weight.data != nullptr ? parts.mm2.weight.rows : -1;
    tap.fc2 = bind_linear(binder, name + "fc2", n_embd, hidden);
    parts.taps.push_back(tap);
  }
}

// The table is square; its side is not in the file.
void bind_positions(WeightBinder& binder, const GgufFile& file, MergeTowerParts& parts) {
  parts.positions = binder.matrix("v.position_embd.weight", -1, parts.config.width);
  if (parts.positions.data == nullptr) return;
  const auto side = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(parts.positions.rows))));
  if (side * side != parts.positions.rows || side > kMaxImageSide) {
    fail(ErrorCode::kFormat,
         "[vision tower] %s: v.position_embd.weight has %lld rows, expected a square number",
         quote_path(file.path()).c_str(), static_cast<long long>(parts.positions.rows));
  }
  parts.position_side = static_cast<int32_t>(side);
}

}  // namespace

std::unique_ptr<Tower> load_qwen3vl_tower(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory);

std::unique_ptr<Tower> load_qwen3vl_tower(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory) {
  MergeTowerParts parts;
  read_merge_config(*file, parts);
  parts.limits = kLimits;
  parts.video = {kVideoLimits, true, 0, true};
  WeightBinder binder(file, "vision tower", memory);
  bind_merge_weights(binder, file, parts);
  bind_positions(binder, *file, parts);
  bind_deepstack(binder, parts);
  binder.finish();
  fill_merge_info(binder, parts);
  parts.info.projector = "qwen3vl_merger";
  parts.info.family = "Qwen3-VL";
  parts.info.fallback_template = kQwen3VlTemplate;
  return make_merge_tower(std::move(parts));
}

}  // namespace trimtok
