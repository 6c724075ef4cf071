#include "engine/vision/alpha.h"

#include <algorithm>

namespace trimtok {
namespace {

// x / 255 rounded, for x in [0, 255 * 255 << 7]; the second form is for values scaled by 128.
int32_t div255(int32_t x) {
  x += 128;
  return ((x >> 8) + x) >> 8;
}

int32_t scaled_div255(int32_t x) {
  x += 128 << 7;
  return (((x >> 8) + x) >> 8) >> 7;
}

size_t n_pixels(const ImageView& image) {
  return static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
}

Image copy_of(const ImageView& image) {
  const size_t n = n_pixels(image);
  Image out{{image.rgb, image.rgb + 3 * n}, image.width, image.height, {}};
  if (image.alpha != nullptr) out.alpha.assign(image.alpha, image.alpha + n);
  return out;
}

// Colours times their opacity.
Image premultiplied(const ImageView& image) {
  Image out = copy_of(image);
  for (size_t i = 0; i < n_pixels(image); ++i) {
    for (size_t c = 3 * i; c < 3 * i + 3; ++c) {
      out.rgb[c] = static_cast<uint8_t>(div255(int32_t{out.rgb[c]} * image.alpha[i]));
    }
  }
  return out;
}

void undo_premultiplication(Image& image) {
  for (size_t i = 0; i < image.alpha.size(); ++i) {
    const int32_t alpha = image.alpha[i];
    if (alpha == 0 || alpha == 255) continue;
    for (size_t c = 3 * i; c < 3 * i + 3; ++c) {
      image.rgb[c] = static_cast<uint8_t>(std::min(255 * int32_t{image.rgb[c]} / alpha, 255));
    }
  }
}

}  // namespace

Image resize_with_alpha(const ImageView& image, int32_t width, int32_t height, Filter filter) {
  if (image.alpha == nullptr) return resize(image, width, height, filter);
  check_image(image);
  // Nothing to do is nothing done: multiplying and dividing would not give every colour back.
  if (image.width == width && image.height == height) return copy_of(image);
  Image out = resize(premultiplied(image).view(), width, height, filter);
  // The resampler takes three channels: opacity goes through it as grey.
  Image grey{std::vector<uint8_t>(3 * n_pixels(image)), image.width, image.height, {}};
  for (size_t i = 0; i < grey.rgb.size(); ++i) grey.rgb[i] = image.alpha[i / 3];
  grey = resize(grey.view(), width, height, filter);
  out.alpha.resize(grey.rgb.size() / 3);
  for (size_t i = 0; i < out.alpha.size(); ++i) out.alpha[i] = grey.rgb[3 * i];
  undo_premultiplication(out);
  return out;
}

Image over_white(const ImageView& image) {
  Image out = copy_of(image);
  for (size_t i = 0; i < out.alpha.size(); ++i) {
    const int32_t share = 128 * out.alpha[i], rest = 128 * 255 - share;
    for (size_t c = 3 * i; c < 3 * i + 3; ++c) {
      out.rgb[c] = static_cast<uint8_t>(scaled_div255(out.rgb[c] * share + 255 * rest));
    }
  }
  out.alpha.clear();
  return out;
}

}  // namespace trimtok
