// qwen2vl: the decoder of Qwen2-VL and Qwen2.5-VL (spec 9.1, 9.5). As qwen2, but a position has three
// components (t, h, w), each turning its own section of pairs.
#include "engine/language/pre_norm.h"

namespace trimtok {

std::unique_ptr<Decoder> load_qwen2vl(std::shared_ptr<const GgufFile> file, const Placement& place) {
  return load_pre_norm(file, place,
                       {.arch = "qwen2vl", .qkv_bias = Bias::kRequired, .mrope = MropeLayout::kContiguous});
}

}  // namespace trimtok
