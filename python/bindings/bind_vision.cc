#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <mutex>

#include "engine/core/backend.h"
#include "engine/core/threads.h"
#include "engine/runtime/device.h"
#include "engine/vision/dynamic_grid.h"
#include "engine/vision/image.h"
#include "engine/vision/tower.h"
#include "python/bindings/convert.h"
#include "python/bindings/module.h"

namespace py = pybind11;
using namespace py::literals;

namespace trimtok::python {
namespace {

Filter filter_from_name(const std::string& name) {
  if (name == "bilinear") return Filter::kBilinear;
  if (name == "bicubic") return Filter::kBicubic;
  if (name == "lanczos") return Filter::kLanczos;
  fail(ErrorCode::kInvalidArgument, "[resize] filter is \"%.32s\", must be bilinear, bicubic or lanczos",
       name.c_str());
}

py::array_t<uint8_t> resize_array(const py::array& array, int32_t width, int32_t height,
                                  const std::string& filter) {
  const U8Array image = pixels(array);
  const ImageView view = image_view(image);
  std::vector<Image> out(1);
  {
    py::gil_scoped_release release;
    out[0] = resize(view, width, height, filter_from_name(filter));
  }
  return py::array_t<uint8_t>(to_numpy(out)[py::int_(0)]);
}

// Values of the taps of one encode: rows of repeated calls (one per group of views) follow each other.
class TapRecord {
 public:
  void add(const char* name, int32_t layer, const ConstMatrix& value) {
    Entry& entry = entries_[layer < 0 ? name : std::string(name) + "." + std::to_string(layer)];
    entry.cols = value.cols;
    for (int64_t i = 0; i < value.rows; ++i) {
      const auto* row =
          reinterpret_cast<const float*>(static_cast<const std::byte*>(value.data) + i * value.stride);
      entry.values.insert(entry.values.end(), row, row + value.cols);
    }
  }
  py::dict to_dict() const {
    py::dict out;
    for (const auto& [name, entry] : entries_) {
      const int64_t rows = static_cast<int64_t>(entry.values.size()) / entry.cols;
      out[py::str(name)] = to_numpy({entry.values.data(), Dtype::kF32, rows, entry.cols, 4 * entry.cols});
    }
    return out;
  }

 private:
  struct Entry {
    int64_t cols = 0;
    std::vector<float> values;
  };
  std::map<std::string, Entry> entries_;
};

// A tower with a backend of its own, for tests and for people who want the rows alone.
class LoadedTower {
 public:
  LoadedTower(const std::string& path, int32_t n_threads, const std::string& device)
      : backend_(choose_device(device, n_threads).backend),
        tower_(load_tower(GgufFile::open(path), backend_->memory())) {}

  py::dict info() const {
    const TowerInfo& info = tower_->info();
    return py::dict("projector"_a = info.projector, "family"_a = info.family,
                    "placeholder"_a = info.placeholder, "fallback_template"_a = info.fallback_template,
                    "n_embd"_a = info.n_embd, "n_extra"_a = info.n_extra,
                    "composite_alpha"_a = info.composite_alpha, "bidirectional"_a = info.bidirectional,
                    "n_layers"_a = info.n_layers, "width"_a = info.width, "patch_size"_a = info.patch_size,
                    "image_size"_a = info.image_size, "weight_bytes"_a = info.weight_bytes,
                    "isa"_a = isa_name(backend_->ops().isa));
  }

  py::dict plan(int32_t width, int32_t height) const {
    check_image_size(width, height);
    return to_dict(tower_->plan(width, height));
  }

  py::array_t<uint8_t> preprocess(const py::array& array) const {
    const ArrayImage image(array);
    std::vector<Image> views;
    {
      py::gil_scoped_release release;
      views = tower_->preprocess(image.view());
    }
    return to_numpy(views);
  }

  py::object encode(const py::array& array, bool taps) {
    const ArrayImage image(array);
    TapRecord record;
    RunControl control;
    control.poll = [] {
      py::gil_scoped_acquire gil;
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    };
    if (taps) {
      control.tap = [&record](const char* name, int32_t layer, const ConstMatrix& value) {
        record.add(name, layer, value);
      };
    }
    EncodedImage encoded;
    {
      py::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      encoded = tower_->encode(*backend_, image.view(), control);
    }
    if (!taps) return to_numpy(*backend_, encoded.rows);
    return py::make_tuple(to_numpy(*backend_, encoded.rows), record.to_dict());
  }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Tower> tower_;
  std::mutex mutex_;  // one encode at a time: they share the backend's arena
};

}  // namespace

void bind_vision(py::module_& m) {
  m.def("resize", &resize_array, "image"_a, "width"_a, "height"_a, "filter"_a,
        "Resize as Pillow does, horizontal pass first.\n\nimage: uint8 [h, w, 3]; filter: bilinear, bicubic "
        "or lanczos. "
        "Returns uint8 "
        "[height, width, 3]. Raises ValueError for other shapes, sizes or names.");
  m.def(
      "smart_resize",
      [](int32_t width, int32_t height, int32_t factor, int64_t min_pixels, int64_t max_pixels,
         int32_t n_frames) {
        if (factor < 1 || factor > kMaxImageSide || n_frames < 1 || min_pixels < 1 ||
            max_pixels < min_pixels) {
          fail(ErrorCode::kInvalidArgument,
               "[smart_resize] factor %d, %d frames, limits %lld and %lld: must be positive, limits in order",
               factor, n_frames, static_cast<long long>(min_pixels), static_cast<long long>(max_pixels));
        }
        const PixelLimits limits{min_pixels, max_pixels};
        const PixelSize size = n_frames == 1 ? smart_resize(width, height, factor, limits)
                                             : smart_resize_video(width, height, n_frames, factor, limits);
        return std::pair(size.width, size.height);
      },
      "width"_a, "height"_a, "factor"_a, "min_pixels"_a, "max_pixels"_a, "n_frames"_a = 1,
      "(width, height) that a picture is scaled to: multiples of factor, an area within the limits. "
      "With several frames the limits are those of all together.");
  m.def(
      "window_order",
      [](int32_t cells_across, int32_t cells_down, int32_t window) {
        if (cells_across < 1 || cells_down < 1 || window < 1 ||
            int64_t{cells_across} * cells_down > kMaxImagePixels) {
          fail(ErrorCode::kInvalidArgument,
               "[window_order] %d x %d cells, window %d: each must be at least 1", cells_across, cells_down,
               window);
        }
        const CellOrder order = window_order(cells_across, cells_down, window);
        return py::make_tuple(order.cells, order.starts);
      },
      "cells_across"_a, "cells_down"_a, "window"_a,
      "Cells of a grid grouped by windows: (raster index of the j-th cell, first cell of every window "
      "and the number of cells).");
  m.def(
      "supported_projectors", []() { return py::dict(py::cast(supported_projectors())); },
      "The values of clip.projector_type that can be loaded, and the families that they stand for.");
  py::class_<LoadedTower>(m, "Tower", "The vision part of a GGUF file, on its own.")
      .def(py::init<const std::string&, int32_t, const std::string&>(), "path"_a, "n_threads"_a = 0,
           "device"_a = "cpu", py::call_guard<py::gil_scoped_release>(),
           "n_threads: 0 uses every CPU that this process may run on. Raises OSError, ModelFormatError, "
           "UnsupportedError or ValueError.")
      .def_property_readonly("info", &LoadedTower::info, "Facts about the tower, as a dict.")
      .def("plan", &LoadedTower::plan, "width"_a, "height"_a,
           "What becomes of a picture of this size (pixels): n_rows, n_views, view_width, view_height, "
           "parts, and "
           "boxes: float32 [n_rows, 4], x0 y0 x1 y1 in pixels of the picture, zeros where a row shows no "
           "place.")
      .def("preprocess", &LoadedTower::preprocess, "image"_a,
           "The views that are encoded: uint8 [h, w, 3 or 4] -> uint8 [n_views, view_height, view_width, 3].")
      .def("encode", &LoadedTower::encode, "image"_a, "taps"_a = false,
           "uint8 [h, w, 3 or 4] -> the rows that enter the language model, float32 [n_rows, n_embd]. With "
           "taps: "
           "(rows, "
           "dict of intermediate values, float32 [n, width]). Raises ValueError, NumericsError or "
           "MemoryError.");
}

}  // namespace trimtok::python
