// Transparent pictures, to the bit as Pillow resamples them and lays them over white.
#pragma once

#include "engine/vision/image.h"

namespace trimtok {

// As resize(); colours weigh as much as they are opaque. An opaque picture is resized as ever.
Image resize_with_alpha(const ImageView& image, int32_t width, int32_t height, Filter filter);

// The opaque picture that is seen in front of white.
Image over_white(const ImageView& image);

}  // namespace trimtok
