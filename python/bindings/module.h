// One bind_x(m) per topic; each lives in bind_x.cc. Bindings translate, they do not decide.
#pragma once

#include <pybind11/pybind11.h>

namespace trimtok::python {

void bind_gguf(pybind11::module_& m);
void bind_model(pybind11::module_& m);
void bind_ops(pybind11::module_& m);
void bind_prune(pybind11::module_& m);
void bind_text(pybind11::module_& m);
void bind_vision(pybind11::module_& m);

}  // namespace trimtok::python
