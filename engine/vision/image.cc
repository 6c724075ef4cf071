#include "engine/vision/image.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <numeric>

#include "engine/core/error.h"

namespace trimtok {
namespace {

constexpr int32_t kWeightBits = 22;  // 32 less 8 bits of pixel and 2 of headroom
constexpr int32_t kWeightOne = 1 << kWeightBits;
constexpr int32_t kWeightHalf = 1 << (kWeightBits - 1);

double filter_support(Filter filter) {
  switch (filter) {
    case Filter::kBilinear:
      return 1.0;
    case Filter::kBicubic:
      return 2.0;
    case Filter::kLanczos:
      return 3.0;
  }
  return 1.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double filter_value(Filter filter, double x) {
  const double t = std::fabs(x);
  switch (filter) {
    case Filter::kBilinear:
      return t < 1.0 ? 1.0 - t : 0.0;
    case Filter::kBicubic: {
      constexpr double a = -0.5;
      if (t < 1.0) return ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0;
      return t < 2.0 ? (((t - 5.0) * t + 8.0) * t - 4.0) * a : 0.0;
    }
    case Filter::kLanczos:
      return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
  }
  return 0.0;
}

// The weights of one axis. Output o reads source pixels [first, first + count); first and first + count never
// decrease with o, which the ring of rows in resample() relies on.
struct Taps {
  struct Span {
    int32_t first;
    int32_t count;
    size_t weights;  // index of its first weight
  };
  std::vector<Span> spans;
  std::vector<int32_t> weights;
  int32_t max_count = 0;
};

// Spec 7.2. Operations and their order are Pillow's: the weights must round to the same integers.
Taps make_taps(int32_t n, int32_t m, Filter filter) {
  Taps taps;
  taps.spans.reserve(static_cast<size_t>(m));
  if (n == m) {  // Pillow skips the pass: every weight but the centre's is zero
    for (int32_t o = 0; o < m; ++o) taps.spans.push_back({o, 1, 0});
    taps.weights = {kWeightOne};
    taps.max_count = 1;
    return taps;
  }
  const double scale = static_cast<double>(n) / m;
  const double filter_scale = std::max(scale, 1.0);
  const double support = filter_support(filter) * filter_scale;
  const double step = 1.0 / filter_scale;
  std::vector<double> real;
  for (int32_t o = 0; o < m; ++o) {
    const double centre = (o + 0.5) * scale;
    const int32_t first = std::max(0, static_cast<int32_t>(centre - support + 0.5));
    const int32_t last = std::min(n, static_cast<int32_t>(centre + support + 0.5));
    const int32_t count = last - first;
    real.resize(static_cast<size_t>(count));
    double sum = 0.0;
    for (int32_t i = 0; i < count; ++i) {
      real[static_cast<size_t>(i)] = filter_value(filter, (i + first - centre + 0.5) * step);
      sum += real[static_cast<size_t>(i)];
    }
    taps.spans.push_back({first, count, taps.weights.size()});
    for (const double w : real) {
      const double fixed = w / sum * kWeightOne;
      taps.weights.push_back(static_cast<int32_t>(fixed < 0.0 ? fixed - 0.5 : fixed + 0.5));
    }
    taps.max_count = std::max(taps.max_count, count);
  }
  return taps;
}

// The sum of |weights| stays below 2 for all three filters, so an accumulator needs 8 + 22 + 1 bits.
uint8_t to_pixel(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

// A picture on a canvas of one colour, which is never made.
struct Canvas {
  ImageView image;
  int32_t width;
  int32_t height;
  int32_t left;
  int32_t top;
  std::array<uint8_t, 3> colour;
};

void fill(uint8_t* rgb, size_t n_pixels, std::array<uint8_t, 3> colour) {
  for (size_t i = 0; i < n_pixels; ++i) std::copy(colour.begin(), colour.end(), rgb + 3 * i);
}

// Rows after the horizontal pass, made when the vertical pass first needs them. Only as many are kept as one
// output row reads. What padding adds to a sum is the same in every row and is summed once.
class ResampledRows {
 public:
  ResampledRows(const Canvas& canvas, const Taps& taps, int32_t n_kept)
      : canvas_(canvas), weights_(taps.weights), row_bytes_(taps.spans.size() * 3), n_kept_(n_kept) {
    ring_.resize(row_bytes_ * static_cast<size_t>(n_kept));
    blank_.resize(row_bytes_);
    starts_.resize(row_bytes_);
    spans_.reserve(taps.spans.size());
    const int32_t right = canvas.left + canvas.image.width;
    for (const Taps::Span& span : taps.spans) {
      const int32_t* w = weights_.data() + span.weights;
      const int32_t skipped = std::clamp(canvas.left - span.first, 0, span.count);
      const int32_t end = std::clamp(right - span.first, skipped, span.count);
      const int32_t before = std::accumulate(w, w + skipped, 0);
      const int32_t inside = std::accumulate(w + skipped, w + end, 0);
      const int32_t after = std::accumulate(w + end, w + span.count, 0);
      for (size_t c = 0; c < 3; ++c) {
        const size_t i = 3 * spans_.size() + c;
        starts_[i] = kWeightHalf + (before + after) * canvas.colour[c];
        blank_[i] = to_pixel(starts_[i] + inside * canvas.colour[c]);
      }
      const int32_t first = end > skipped ? span.first + skipped - canvas.left : 0;
      spans_.push_back({first, end - skipped, span.weights + static_cast<size_t>(skipped)});
    }
  }

  void advance(int32_t first, int32_t last) {
    for (next_ = std::max(next_, first); next_ < last; ++next_) {
      if (!is_blank(next_)) resample_row(next_ - canvas_.top, slot(next_));
    }
  }
  const uint8_t* row(int32_t y) { return is_blank(y) ? blank_.data() : slot(y); }

 private:
  bool is_blank(int32_t y) const { return y < canvas_.top || y - canvas_.top >= canvas_.image.height; }
  uint8_t* slot(int32_t y) { return ring_.data() + static_cast<size_t>(y % n_kept_) * row_bytes_; }

  void resample_row(int32_t y, uint8_t* out) const {
    const uint8_t* row =
        canvas_.image.rgb + 3 * static_cast<size_t>(canvas_.image.width) * static_cast<size_t>(y);
    const int32_t* start = starts_.data();
    for (const Taps::Span& span : spans_) {
      const int32_t* w = weights_.data() + span.weights;
      const uint8_t* p = row + 3 * static_cast<size_t>(span.first);
      int32_t r = start[0], g = start[1], b = start[2];
      for (int32_t i = 0; i < span.count; ++i, p += 3) {
        r += w[i] * p[0];
        g += w[i] * p[1];
        b += w[i] * p[2];
      }
      out[0] = to_pixel(r);
      out[1] = to_pixel(g);
      out[2] = to_pixel(b);
      out += 3;
      start += 3;
    }
  }

  const Canvas& canvas_;
  const std::vector<int32_t>& weights_;
  size_t row_bytes_;
  int32_t n_kept_;
  int32_t next_ = 0;
  std::vector<Taps::Span> spans_;  // inside the picture
  std::vector<int32_t> starts_;    // [outputs, 3]
  std::vector<uint8_t> ring_, blank_;
};

Image resample(const Canvas& canvas, int32_t width, int32_t height, Filter filter) {
  const Taps across = make_taps(canvas.width, width, filter);
  const Taps down = make_taps(canvas.height, height, filter);
  ResampledRows rows(canvas, across, down.max_count);
  const size_t n = 3 * static_cast<size_t>(width);
  Image out{std::vector<uint8_t>(n * static_cast<size_t>(height)), width, height};
  std::vector<int32_t> sums(n);
  for (size_t y = 0; y < down.spans.size(); ++y) {
    const Taps::Span& span = down.spans[y];
    rows.advance(span.first, span.first + span.count);
    std::fill(sums.begin(), sums.end(), kWeightHalf);
    for (int32_t i = 0; i < span.count; ++i) {
      const int32_t w = down.weights[span.weights + static_cast<size_t>(i)];
      const uint8_t* row = rows.row(span.first + i);
      int32_t* sum = sums.data();
      for (size_t x = 0; x < n; ++x) sum[x] += w * row[x];
    }
    uint8_t* pixels = out.rgb.data() + n * y;
    for (size_t x = 0; x < n; ++x) pixels[x] = to_pixel(sums[x]);
  }
  return out;
}

void check_inside(const char* what, const ImageView& inner, int32_t left, int32_t top, int32_t width,
                  int32_t height) {
  const bool fits = left >= 0 && top >= 0 && inner.width <= width - left && inner.height <= height - top;
  if (fits) return;
  fail(ErrorCode::kInvalidArgument, "[%s] %d x %d pixels at (%d, %d), expected a place inside %d x %d", what,
       inner.width, inner.height, left, top, width, height);
}

}  // namespace

void check_image_size(int64_t width, int64_t height) {
  const auto side_ok = [](int64_t side) { return side >= 1 && side <= kMaxImageSide; };
  if (side_ok(width) && side_ok(height) && width * height <= kMaxImagePixels) return;
  fail(ErrorCode::kInvalidArgument,
       "[image] %lld x %lld pixels, expected sides in [1, %d] and at most %lld pixels; scale the picture "
       "first",
       static_cast<long long>(width), static_cast<long long>(height), kMaxImageSide,
       static_cast<long long>(kMaxImagePixels));
}

void check_image(const ImageView& image) {
  check_image_size(image.width, image.height);
  if (image.rgb == nullptr) fail(ErrorCode::kInvalidArgument, "[image] no pixels, expected 8-bit RGB");
}

Image resize(const ImageView& image, int32_t width, int32_t height, Filter filter) {
  check_image(image);
  check_image_size(width, height);
  return resample({image, image.width, image.height, 0, 0, {}}, width, height, filter);
}

Image pad_to_square_and_resize(const ImageView& image, std::array<uint8_t, 3> colour, int32_t size,
                               Filter filter) {
  check_image(image);
  check_image_size(size, size);
  const int32_t side = std::max(image.width, image.height);
  const Canvas canvas{image, side, side, (side - image.width) / 2, (side - image.height) / 2, colour};
  return resample(canvas, size, size, filter);
}

Image paste(const ImageView& image, int32_t width, int32_t height, int32_t left, int32_t top,
            std::array<uint8_t, 3> colour) {
  check_image(image);
  check_image_size(width, height);
  check_inside("paste", image, left, top, width, height);
  const size_t n_pixels = static_cast<size_t>(width) * static_cast<size_t>(height);
  Image out{std::vector<uint8_t>(3 * n_pixels), width, height};
  fill(out.rgb.data(), n_pixels, colour);
  const size_t row_bytes = 3 * static_cast<size_t>(image.width);
  for (size_t y = 0; y < static_cast<size_t>(image.height); ++y) {
    const size_t place =
        (static_cast<size_t>(top) + y) * static_cast<size_t>(width) + static_cast<size_t>(left);
    std::memcpy(out.rgb.data() + 3 * place, image.rgb + row_bytes * y, row_bytes);
  }
  return out;
}

Image crop(const ImageView& image, int32_t left, int32_t top, int32_t width, int32_t height) {
  check_image(image);
  check_image_size(width, height);
  check_inside("crop", {nullptr, width, height}, left, top, image.width, image.height);
  const size_t row_bytes = 3 * static_cast<size_t>(width);
  Image out{std::vector<uint8_t>(row_bytes * static_cast<size_t>(height)), width, height};
  for (size_t y = 0; y < static_cast<size_t>(height); ++y) {
    const size_t place =
        (static_cast<size_t>(top) + y) * static_cast<size_t>(image.width) + static_cast<size_t>(left);
    std::memcpy(out.rgb.data() + row_bytes * y, image.rgb + 3 * place, row_bytes);
  }
  return out;
}

void normalise(const ImageView& image, const std::array<float, 3>& mean, const std::array<float, 3>& std,
               float* out) {
  const size_t n = static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
  for (size_t c = 0; c < 3; ++c) {
    std::array<float, 256> value;
    for (size_t u = 0; u < value.size(); ++u) {
      value[u] = static_cast<float>((static_cast<double>(u) / 255.0 - double{mean[c]}) / double{std[c]});
    }
    float* plane = out + c * n;
    for (size_t i = 0; i < n; ++i) plane[i] = value[image.rgb[3 * i + c]];
  }
}

}  // namespace trimtok
