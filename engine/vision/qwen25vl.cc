// Qwen2.5-VL (clip.projector_type "qwen2.5vl_merger", spec 8.4): RMSNorm blocks with a gated FFN; in most
// layers a patch sees its own window of 112 x 112 pixels only.
#include <limits>

#include "engine/core/error.h"
#include "engine/gguf/quote.h"
#include "engine/vision/merge_tower.h"
#include "engine/vision/qwen_template.h"

namespace trimtok {
namespace {

// Of the released preprocessor_config.json: 4 and 16384 rows.
constexpr PixelLimits kLimits{3136, 12845056};
// Of the video processor, per frame: 128 and 768 rows for two of them.
constexpr PixelLimits kVideoLimits{100352, 602112};
constexpr double kPlacesPerSecond = 2.0;  // tokens_per_second of the released configurations
constexpr int64_t kMaxWindow = 4096;      // pixels

// Every n_wa_pattern-th layer sees the whole picture.
void read_windows(const GgufFile& file, MergeTowerParts& parts) {
  const VitConfig& c = parts.config;
  const int64_t period = file.get_int("clip.vision.n_wa_pattern", 1, std::numeric_limits<int32_t>::max());
  const int64_t pixels = file.get_int("clip.vision.window_size", 1, kMaxWindow, 112);
  parts.window = static_cast<int32_t>(pixels / parts.merge / c.patch_size);
  if (parts.window < 1) {
    fail(ErrorCode::kFormat,
         "[vision tower] %s: clip.vision.window_size is %lld, expected at least the %d pixels of a merged "
         "cell",
         quote_path(file.path()).c_str(), static_cast<long long>(pixels), parts.merge * c.patch_size);
  }
  for (int32_t i = 0; i < c.n_layers; ++i) parts.full.push_back((i + 1) % period == 0);
}

}  // namespace

std::unique_ptr<Tower> load_qwen25vl_tower(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory);

std::unique_ptr<Tower> load_qwen25vl_tower(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory) {
  MergeTowerParts parts;
  read_merge_config(*file, parts);
  parts.config.rms_norm = true;
  parts.limits = kLimits;
  parts.video = {kVideoLimits, false, kPlacesPerSecond, false};
  read_windows(*file, parts);
  WeightBinder binder(file, "vision tower", memory);
  bind_merge_weights(binder, file, parts);  // v.blk.N.ffn_gate comes with the layers
  binder.finish();
  fill_merge_info(binder, parts);
  parts.info.projector = "qwen2.5vl_merger";
  parts.info.family = "Qwen2.5-VL";
  parts.info.fallback_template = kQwen2VlTemplate;
  return make_merge_tower(std::move(parts));
}

}  // namespace trimtok
