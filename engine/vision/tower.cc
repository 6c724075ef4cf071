#include "engine/vision/tower.h"

#include "engine/core/error.h"
#include "engine/gguf/quote.h"

namespace trimtok {

#define TT_TOWER(projector, factory, families) \
  std::unique_ptr<Tower> factory(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory);
#include "engine/vision/towers.def"
#undef TT_TOWER

std::unique_ptr<Tower> load_tower(std::shared_ptr<const GgufFile> file, const MemoryPtr& memory) {
  if (!file->get_bool("clip.has_vision_encoder", true)) {
    fail(ErrorCode::kUnsupported,
         "[vision tower] %s: clip.has_vision_encoder is false, expected a vision encoder; pass the mmproj "
         "file for pictures",
         quote_path(file->path()).c_str());
  }
  const std::string type = projector_type(*file);
#define TT_TOWER(projector, factory, families) \
  if (type == (projector)) return factory(std::move(file), memory);
#include "engine/vision/towers.def"
#undef TT_TOWER
  std::string supported;
  for (const auto& [name, _] : supported_projectors()) supported += (supported.empty() ? "" : ", ") + name;
  if (type.empty()) {
    fail(ErrorCode::kUnsupported,
         "[vision tower] %s: no clip.projector_type and no mm.0.weight, expected one of: %s; is this an "
         "mmproj file?",
         quote_path(file->path()).c_str(), supported.c_str());
  }
  fail(ErrorCode::kUnsupported, "[vision tower] %s: clip.projector_type is %s, expected one of: %s",
       quote_path(file->path()).c_str(), quote_text(type).c_str(), supported.c_str());
}

std::vector<ImagePlan> Tower::plan_video(int32_t, int32_t, int32_t, double) const {
  fail(ErrorCode::kUnsupported, "[video] %s has no video input, expected frames as single pictures",
       info().family.c_str());
}

EncodedImage Tower::encode_group(Backend&, std::span<const ImageView>, int32_t, const RunControl&) const {
  fail(ErrorCode::kUnsupported, "[video] %s has no video input, expected frames as single pictures",
       info().family.c_str());
}

std::shared_ptr<const Tower> Tower::with_options(const ViewOptions& options) const {
  const bool min = options.min_pixels != 0;
  fail(
      ErrorCode::kInvalidArgument,
      "[%s] is %lld, but pictures for %s have a fixed resolution; leave it out or scale the picture yourself",
      min ? "min_pixels" : "max_pixels",
      static_cast<long long>(min ? options.min_pixels : options.max_pixels), info().family.c_str());
}

std::vector<std::pair<std::string, std::string>> supported_projectors() {
  return {
#define TT_TOWER(projector, factory, families) {projector, families},
#include "engine/vision/towers.def"
#undef TT_TOWER
  };
}

}  // namespace trimtok
