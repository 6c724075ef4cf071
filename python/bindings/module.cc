#include "python/bindings/module.h"

#include <pybind11/pybind11.h>

#include "engine/core/error.h"
#include "trimtok/version.h"

namespace py = pybind11;

namespace trimtok::python {
namespace {

// trimtok_cpp/errors.py holds the classes; the engine's codes choose among them and Python's own.
void raise_python_error(const Error& error) {
  const auto raise = [&](const char* name) {
    const py::object type = py::module_::import("trimtok_cpp.errors").attr(name);
    PyErr_SetString(type.ptr(), error.what());
  };
  switch (error.code()) {
    case ErrorCode::kInvalidArgument:
      return PyErr_SetString(PyExc_ValueError, error.what());
    case ErrorCode::kIo:
      return PyErr_SetString(PyExc_OSError, error.what());
    case ErrorCode::kOutOfMemory:
      return PyErr_SetString(PyExc_MemoryError, error.what());
    case ErrorCode::kInternal:
      return PyErr_SetString(PyExc_RuntimeError, error.what());
    case ErrorCode::kFormat:
      return raise("ModelFormatError");
    case ErrorCode::kUnsupported:
      return raise("UnsupportedError");
    case ErrorCode::kContextOverflow:
      return raise("ContextOverflowError");
    case ErrorCode::kNumerics:
      return raise("NumericsError");
    case ErrorCode::kCancelled:
      return raise("Cancelled");
  }
}

}  // namespace
}  // namespace trimtok::python

PYBIND11_MODULE(_core, m) {
  m.doc() = "The engine behind trimtok_cpp; use the trimtok_cpp package.";
  m.attr("__version__") = TRIMTOK_VERSION;
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const trimtok::Error& error) {
      trimtok::python::raise_python_error(error);
    }
  });
  trimtok::python::bind_gguf(m);
  trimtok::python::bind_text(m);
  trimtok::python::bind_vision(m);
  trimtok::python::bind_ops(m);
  trimtok::python::bind_prune(m);
  trimtok::python::bind_model(m);
}
