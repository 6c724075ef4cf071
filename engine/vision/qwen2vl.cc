// Qwen2-VL (clip.projector_type "qwen2vl_merger", spec 8.3): LayerNorm blocks with QuickGELU, every layer
// sees the whole picture. The picture is stretched to multiples of 28 pixels, as the original processor does.
#include "engine/vision/merge_tower.h"
#include "engine/vision/qwen_template.h"

namespace trimtok {
namespace {

// Of the released preprocessor_config.json: 4 and 16384 rows.
constexpr PixelLimits kLimits{3136, 12845056};
// Of the video processor, per frame: 128 and 768 rows for two of them.
constexpr PixelLimits kVideoLimits{100352, 602112};

}  // namespace

std::unique_ptr<Tower> load_qwen2vl_tower(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory);

// v.position_embd.weight of old files is a dummy and stays unread, as does feed_forward_length.
std::unique_ptr<Tower> load_qwen2vl_tower(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory) {
  MergeTowerParts parts;
  read_merge_config(*file, parts);
  parts.limits = kLimits;
  parts.video = {kVideoLimits, false, 0, false};
  WeightBinder binder(file, "vision tower", memory);
  bind_merge_weights(binder, file, parts);
  binder.finish();
  fill_merge_info(binder, parts);
  parts.info.projector = "qwen2vl_merger";
  parts.info.family = "Qwen2-VL";
  parts.info.fallback_template = kQwen2VlTemplate;
  return make_merge_tower(std::move(parts));
}

}  // namespace trimtok
