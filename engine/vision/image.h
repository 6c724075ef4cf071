// Pixels in, pixels out: Pillow-exact resampling, padding, tiling, normalisation. Decoding is the caller's.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace trimtok {

// 8-bit RGB, interleaved, rows packed. Non-owning.
struct ImageView {
  const uint8_t* rgb = nullptr;
  int32_t width = 0;
  int32_t height = 0;
  const uint8_t* alpha = nullptr;  // [height, width]; null: opaque. Only alpha.h looks at it.
};

struct Image {
  std::vector<uint8_t> rgb;
  int32_t width = 0;
  int32_t height = 0;
  std::vector<uint8_t> alpha = {};  // empty: opaque
  ImageView view() const { return {rgb.data(), width, height, alpha.empty() ? nullptr : alpha.data()}; }
};

enum class Filter { kBilinear, kBicubic, kLanczos };

// Limits for pictures from outside: each side in [1, kMaxImageSide], width * height <= kMaxImagePixels.
inline constexpr int32_t kMaxImageSide = 46000;
inline constexpr int64_t kMaxImagePixels = int64_t{1} << 28;
// Both throw Error(kInvalidArgument) with the size and the limit.
void check_image_size(int64_t width, int64_t height);
void check_image(const ImageView& image);

// Separable area-aware resampling in 8-bit fixed point, horizontal pass first (spec 7.2): Pillow before 12.2,
// which since then chooses the order of the passes by cost.
Image resize(const ImageView& image, int32_t width, int32_t height, Filter filter);
// The picture centred on a square canvas of one colour, side max(width, height), resized to size x size. The
// canvas is never made: for a picture of 46000 x 1 it would be 6 GB.
Image pad_to_square_and_resize(const ImageView& image, std::array<uint8_t, 3> colour, int32_t size,
                               Filter filter);
// A canvas of one colour with `image` pasted at (left, top).
Image paste(const ImageView& image, int32_t width, int32_t height, int32_t left, int32_t top,
            std::array<uint8_t, 3> colour);
Image crop(const ImageView& image, int32_t left, int32_t top, int32_t width, int32_t height);
// (u8 / 255 - mean) / std into planar f32 [3, height, width].
void normalise(const ImageView& image, const std::array<float, 3>& mean, const std::array<float, 3>& std,
               float* out);

}  // namespace trimtok
