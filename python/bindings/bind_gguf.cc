#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <string>
#include <tuple>

#include "engine/core/error.h"
#include "engine/gguf/file.h"
#include "engine/gguf/weights.h"
#include "engine/language/decoder.h"
#include "python/bindings/module.h"

namespace py = pybind11;

namespace trimtok::python {
namespace {

using FilePtr = std::shared_ptr<const GgufFile>;

// pybind11 holders cannot be pointers to const.
struct PyGgufFile {
  FilePtr file;
};

// What the operating system sees: accepts str, bytes and os.PathLike, keeps names that are not UTF-8.
std::string fs_path(const py::object& path) {
  return py::bytes(py::module_::import("os").attr("fsencode")(path)).cast<std::string>();
}

py::object fs_text(const std::string& path) {
  return py::module_::import("os").attr("fsdecode")(py::bytes(path));
}

// Token strings may be arbitrary bytes; surrogate escapes keep them exactly.
py::object text(const std::string& value) {
  PyObject* decoded =
      PyUnicode_DecodeUTF8(value.data(), static_cast<Py_ssize_t>(value.size()), "surrogateescape");
  if (decoded == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(decoded);
}

py::object element(int64_t value) {
  return py::int_(value);
}
py::object element(double value) {
  return py::float_(value);
}
py::object element(bool value) {
  return py::bool_(value);
}
py::object element(const std::string& value) {
  return text(value);
}

template <typename T>
py::object to_list(const std::vector<T>& values) {
  py::list list(values.size());
  for (size_t i = 0; i < values.size(); ++i) list[i] = element(static_cast<const T&>(values[i]));
  return list;
}

py::object to_python(const MetaValue& value) {
  return std::visit(
      [](const auto& v) -> py::object {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, MetaArray>) {
          return std::visit([](const auto& array) { return to_list(array); }, v);
        } else {
          return element(v);
        }
      },
      value);
}

py::dict metadata(const GgufFile& file) {
  py::dict result;
  for (const auto& [key, value] : file.metadata()) result[py::str(key)] = to_python(value);
  return result;
}

py::dict value_types(const GgufFile& file) {
  py::dict result;
  for (size_t i = 0; i < file.metadata().size(); ++i) {
    const StoredType& stored = file.stored_types()[i];
    py::object element_type = py::none();
    if (stored.element >= 0) element_type = py::int_(stored.element);
    result[py::str(file.metadata()[i].first)] = py::make_tuple(stored.type, element_type);
  }
  return result;
}

py::dict tensor_dict(const TensorInfo& tensor) {
  const DtypeInfo& info = *dtype_info(tensor.dtype);
  const auto n_dims = static_cast<size_t>(tensor.n_dims);
  py::tuple ne(n_dims);
  py::tuple shape(n_dims);
  for (size_t d = 0; d < n_dims; ++d) {
    ne[d] = tensor.ne[d];
    shape[n_dims - 1 - d] = tensor.ne[d];
  }
  py::dict result;
  result["name"] = tensor.name;
  result["dtype"] = info.name;
  result["type_id"] = static_cast<int32_t>(tensor.dtype);
  result["usable"] = info.use == DtypeUse::kWeight;
  result["shape"] = shape;
  result["ne"] = ne;
  result["bytes"] = tensor.bytes;
  result["shard"] = tensor.shard;
  return result;
}

py::list tensors(const GgufFile& file) {
  py::list result;
  for (const TensorInfo& tensor : file.tensors()) result.append(tensor_dict(tensor));
  return result;
}

py::array tensor_data(const FilePtr& file, const std::string& name, bool copy) {
  const TensorInfo* tensor = file->find_tensor(name);
  if (tensor == nullptr) throw py::key_error("no tensor named '" + name + "'");
  file->check_size();
  const auto n = static_cast<py::ssize_t>(tensor->bytes);
  if (copy || n == 0) {
    py::array_t<uint8_t> out(n);
    if (n != 0) {
      const py::gil_scoped_release unlocked;  // reading the mapping may wait for the disk
      std::memcpy(out.mutable_data(), tensor->data, tensor->bytes);
    }
    return out;
  }
  py::capsule owner(new FilePtr(file), [](void* p) { delete static_cast<FilePtr*>(p); });
  py::array_t<uint8_t> view(n, reinterpret_cast<const uint8_t*>(tensor->data), owner);
  view.attr("setflags")(py::arg("write") = false);
  return view;
}

PyGgufFile open_file(const py::object& path) {
  const std::string name = fs_path(path);
  const py::gil_scoped_release unlocked;
  return {GgufFile::open(name)};
}

const char* kind_name(FileKind kind) {
  switch (kind) {
    case FileKind::kLanguageModel:
      return "language model";
    case FileKind::kProjector:
      return "projector";
    case FileKind::kCombined:
      return "combined";
    case FileKind::kMonolithic:
      return "ollama";
  }
  return "unknown";
}

py::dict model_files(const py::object& path, const py::object& mmproj) {
  const std::string lm = fs_path(path);
  const std::string vision = mmproj.is_none() ? "" : fs_path(mmproj);
  ModelFiles files;
  {
    const py::gil_scoped_release unlocked;
    files = find_model_files(lm, vision);
  }
  py::dict result;
  result["lm"] = fs_text(files.lm->path());
  result["vision"] = py::none();
  if (files.vision != nullptr) result["vision"] = fs_text(files.vision->path());
  result["combined"] = files.vision == files.lm;
  py::list notes;
  for (const std::string& note : files.notes) notes.append(text(note));
  result["notes"] = notes;
  return result;
}

// Drives WeightBinder for the tests: requests are (kind, name, rows, cols). Vectors come back as float
// arrays, matrices as (dtype, rows, cols, stride, bytes), what is absent as None.
py::tuple bind_weights(const PyGgufFile& file, const std::string& part, const py::list& requests) {
  WeightBinder binder(file.file, part);
  py::list bound;
  const auto add_matrix = [&bound](const ConstMatrix& m) {
    if (m.data == nullptr) return bound.append(py::none());
    bound.append(
        py::make_tuple(dtype_info(m.dtype)->name, m.rows, m.cols, m.stride,
                       py::bytes(static_cast<const char*>(m.data), static_cast<size_t>(m.rows * m.stride))));
  };
  const auto add_vector = [&bound](const float* v, int64_t n) {
    if (v == nullptr) return bound.append(py::none());
    bound.append(py::array_t<float>(n, v));
  };
  for (const py::handle request : requests) {
    const auto [kind, name, rows, cols] =
        request.cast<std::tuple<std::string, std::string, int64_t, int64_t>>();
    if (kind == "matrix") {
      add_matrix(binder.matrix(name, rows, cols));
    } else if (kind == "optional_matrix") {
      add_matrix(binder.optional_matrix(name, rows, cols));
    } else if (kind == "flattened") {
      add_matrix(binder.flattened(name, rows, cols));
    } else if (kind == "vector") {
      add_vector(binder.vector(name, rows), rows);
    } else if (kind == "optional_vector") {
      add_vector(binder.optional_vector(name, rows), rows);
    } else {
      throw py::value_error("unknown kind of weight '" + kind + "'");
    }
  }
  binder.finish();
  return py::make_tuple(bound, binder.storage()->weight_bytes);
}

}  // namespace

void bind_gguf(py::module_& m) {
  py::class_<PyGgufFile>(m, "GgufFile", R"(A GGUF file (all its shards), mapped read-only and checked.

Raises OSError, ModelFormatError or UnsupportedError naming file, field, value and what was expected.)")
      .def(py::init(&open_file), py::arg("path"))
      .def_property_readonly("path", [](const PyGgufFile& f) { return fs_text(f.file->path()); })
      .def_property_readonly("version", [](const PyGgufFile& f) { return f.file->version(); })
      .def_property_readonly("file_bytes", [](const PyGgufFile& f) { return f.file->file_bytes(); })
      .def_property_readonly("n_shards", [](const PyGgufFile& f) { return f.file->n_shards(); })
      .def_property_readonly(
          "kind", [](const PyGgufFile& f) { return kind_name(file_kind(*f.file)); },
          "'language model', 'projector', 'combined' or 'ollama', decided by content.")
      .def_property_readonly(
          "projector_type", [](const PyGgufFile& f) { return text(projector_type(*f.file)); },
          "Family of the projector; empty when the file has none.")
      .def_property_readonly(
          "projector_width", [](const PyGgufFile& f) { return projector_width(*f.file); },
          "Width of the rows that the projector makes; 0 when unknown.")
      .def_property_readonly(
          "metadata", [](const PyGgufFile& f) { return metadata(*f.file); },
          "A new dict per access, in file order: int, float, bool, str (bytes that are no UTF-8 as surrogate "
          "escapes) or a list of these.")
      .def_property_readonly(
          "value_types", [](const PyGgufFile& f) { return value_types(*f.file); },
          "dict of key -> (GGUF value type id, element type id or None), as stored.")
      .def_property_readonly(
          "tensors", [](const PyGgufFile& f) { return tensors(*f.file); },
          "List of dicts: name, dtype, type_id, usable (as a weight), shape (slowest dimension first, as "
          "numpy "
          "shows it), ne (GGUF order), bytes, shard.")
      .def_property_readonly("warnings",
                             [](const PyGgufFile& f) {
                               py::list result;
                               for (const std::string& warning : f.file->warnings())
                                 result.append(text(warning));
                               return result;
                             })
      .def(
          "tensor_data",
          [](const PyGgufFile& f, const std::string& name, bool copy) {
            return tensor_data(f.file, name, copy);
          },
          py::arg("name"), py::kw_only(), py::arg("copy") = true,
          "The tensor's bytes as stored, uint8 [bytes]. copy=False: a read-only view that keeps the file "
          "mapped. "
          "KeyError for an unknown name.");

  m.def("find_model_files", &model_files, py::arg("path"), py::arg("mmproj") = py::none(),
        R"(dict(lm=path, vision=path or None, combined=bool, notes=[str]).

Without mmproj the vision part is the file itself when it is combined, else the only projector file in its
folder that fits. Raises ValueError for a wrong or ambiguous pair, and as GgufFile does.)");
  m.def(
      "supported_decoders", []() { return py::dict(py::cast(supported_decoders())); },
      "The values of general.architecture that this version runs, and the models that they stand for.");
  m.def("_bind_weights", &bind_weights, py::arg("file"), py::arg("part"), py::arg("requests"));
}

}  // namespace trimtok::python
