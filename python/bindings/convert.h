// NumPy arrays to engine views and back, shared by the bindings. Shapes and dtypes are checked here.
#pragma once

#include <pybind11/numpy.h>

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "engine/core/backend.h"
#include "engine/core/error.h"
#include "engine/vision/image.h"
#include "engine/vision/tower.h"

namespace trimtok::python {

using U8Array = pybind11::array_t<uint8_t, pybind11::array::c_style | pybind11::array::forcecast>;
using F32Array = pybind11::array_t<float, pybind11::array::c_style | pybind11::array::forcecast>;
using I32Array = pybind11::array_t<int32_t, pybind11::array::c_style | pybind11::array::forcecast>;

// Numbers that are no pixels (floats in [0, 1], say) must not be cut to bytes silently.
inline U8Array pixels(const pybind11::array& array) {
  if (!array.dtype().is(pybind11::dtype::of<uint8_t>())) {
    fail(ErrorCode::kInvalidArgument, "[image] has dtype %s, must be uint8 [height, width, 3]",
         pybind11::cast<std::string>(pybind11::str(array.dtype())).c_str());
  }
  return U8Array(array);
}

// A view of an uint8 array [height, width, 3]; the array must outlive it.
inline ImageView image_view(const U8Array& array) {
  if (array.ndim() != 3 || array.shape(2) != 3) {
    fail(ErrorCode::kInvalidArgument, "[image] has %d dimensions, must be uint8 [height, width, 3]",
         static_cast<int>(array.ndim()));
  }
  if (array.shape(0) > kMaxImageSide || array.shape(1) > kMaxImageSide) {
    fail(ErrorCode::kInvalidArgument, "[image] is %lld x %lld pixels, each side may have at most %d",
         static_cast<long long>(array.shape(1)), static_cast<long long>(array.shape(0)), kMaxImageSide);
  }
  const ImageView view = {array.data(), static_cast<int32_t>(array.shape(1)),
                          static_cast<int32_t>(array.shape(0))};
  check_image(view);
  return view;
}

// A picture from an uint8 array [height, width, 3], or 4 with opacity. The engine's view of it lives as long
// as this.
class ArrayImage {
 public:
  explicit ArrayImage(const pybind11::array& array) : array_(pixels(array)) {
    if (array_.ndim() != 3 || array_.shape(2) != 4) {
      view_ = image_view(array_);
      return;
    }
    namespace py = pybind11;
    alpha_ = U8Array(py::object(array_[py::make_tuple(py::ellipsis(), 3)]));
    array_ = U8Array(py::object(array_[py::make_tuple(py::ellipsis(), py::slice(0, 3, 1))]));
    view_ = image_view(array_);
    view_.alpha = alpha_.data();
  }
  const ImageView& view() const { return view_; }
  Image copy() const {
    const size_t n = static_cast<size_t>(view_.width) * static_cast<size_t>(view_.height);
    Image image{{view_.rgb, view_.rgb + 3 * n}, view_.width, view_.height, {}};
    if (view_.alpha != nullptr) image.alpha.assign(view_.alpha, view_.alpha + n);
    return image;
  }

 private:
  U8Array array_, alpha_;
  ImageView view_;
};

inline pybind11::array_t<float> to_numpy(const ConstMatrix& m) {
  pybind11::array_t<float> out({m.rows, m.cols});
  for (int64_t i = 0; i < m.rows; ++i) {
    std::memcpy(out.mutable_data(i, 0), static_cast<const std::byte*>(m.data) + i * m.stride,
                static_cast<size_t>(m.cols) * sizeof(float));
  }
  return out;
}

// Rows of a backend's memory.
inline pybind11::array_t<float> to_numpy(const Backend& backend, const ConstMatrix& m) {
  Buffer copy;
  return to_numpy(backend.read(m, copy));
}

// Pictures of one size as uint8 [n, height, width, 3].
inline pybind11::array_t<uint8_t> to_numpy(const std::vector<Image>& images) {
  const int64_t n = static_cast<int64_t>(images.size());
  const int64_t height = n == 0 ? 0 : images[0].height;
  const int64_t width = n == 0 ? 0 : images[0].width;
  pybind11::array_t<uint8_t> out({n, height, width, int64_t{3}});
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(out.mutable_data(i, 0, 0, 0), images[static_cast<size_t>(i)].rgb.data(),
                images[static_cast<size_t>(i)].rgb.size());
  }
  return out;
}

inline pybind11::dict to_dict(const ImagePlan& plan) {
  namespace py = pybind11;
  py::list parts;
  for (const PromptPart& part : plan.parts) {
    py::dict item;
    item["text"] = part.text;
    item["row_start"] = part.row_start;
    item["n_rows"] = part.n_rows;
    parts.append(item);
  }
  const int64_t n_boxes = static_cast<int64_t>(plan.boxes.size());
  py::array_t<float> boxes({n_boxes, int64_t{4}});
  static_assert(sizeof(RowBox) == 4 * sizeof(float));
  if (n_boxes > 0) std::memcpy(boxes.mutable_data(), plan.boxes.data(), plan.boxes.size() * sizeof(RowBox));
  py::dict out;
  out["n_rows"] = plan.n_rows;
  out["n_views"] = plan.n_views;
  out["view_width"] = plan.view_width;
  out["view_height"] = plan.view_height;
  out["parts"] = parts;
  out["boxes"] = boxes;
  return out;
}

}  // namespace trimtok::python
