#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstring>
#include <optional>

#include "engine/core/backend.h"
#include "engine/prune/prune.h"
#include "engine/runtime/device.h"
#include "python/bindings/module.h"
#include "python/bindings/prune_report.h"

namespace py = pybind11;
using namespace py::literals;

namespace trimtok::python {
namespace {

using Clock = std::chrono::steady_clock;

// A view of a float32 or float16 array [rows, cols]. The array is replaced by a copy when its columns are
// apart or its rows overlap; it must outlive the view.
ConstMatrix matrix_view(py::array& array, const std::string& name) {
  const bool is_float = array.dtype().kind() == 'f' && (array.itemsize() == 4 || array.itemsize() == 2);
  if (!is_float || array.dtype().byteorder() == '>') {
    fail(ErrorCode::kInvalidArgument, "[%s] is %s, must be float32 or float16", name.c_str(),
         py::str(array.dtype()).cast<std::string>().c_str());
  }
  if (array.ndim() != 2) {
    fail(ErrorCode::kInvalidArgument, "[%s] has %d dimensions, must be [rows, width]", name.c_str(),
         static_cast<int>(array.ndim()));
  }
  const py::ssize_t item = array.itemsize();
  const bool empty = array.size() == 0;
  const bool plain = array.strides(1) == item && array.strides(0) >= array.shape(1) * item &&
                     array.strides(0) % item == 0 &&
                     (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
  if (!plain && !empty) array = array.attr("copy")("C").cast<py::array>();
  const int64_t stride = empty ? array.shape(1) * item : array.strides(0);
  return {array.data(), item == 4 ? Dtype::kF32 : Dtype::kF16, array.shape(0), array.shape(1), stride};
}

template <typename T>
py::object or_none(const std::optional<T>& value) {
  return value ? py::cast(*value) : py::none();
}

py::dict settings_dict(const PruneOptions& o) {
  py::dict out;
  if (o.budget == BudgetKind::kKeep) out["keep"] = o.keep;
  if (o.budget == BudgetKind::kCoverage) out["coverage"] = o.coverage;
  if (o.budget == BudgetKind::kMaxTokens) out["max_tokens"] = o.max_tokens;
  if (o.budget == BudgetKind::kFit) out["fit"] = true;
  out["selector"] = selector_name(o.selector);
  out["stage1"] = rule_name(o.stage1);
  out["d_inter"] = inter_name(o.d_inter);
  out["align"] = agreement_name(o.align);
  out["alpha"] = or_none(o.alpha);
  out["pool"] = o.pool;
  out["pareto_weight"] = o.pareto_weight;
  out["inter_weight"] = o.inter_weight;
  out["seed"] = o.seed;
  return out;
}

py::object pooled_rows(const PruneResult& result) {
  if (result.pooled.empty()) return py::none();
  py::list out;
  for (const std::vector<float>& rows : result.pooled) {
    py::array_t<float> array({static_cast<int64_t>(rows.size()) / result.width, result.width});
    if (!rows.empty()) std::memcpy(array.mutable_data(), rows.data(), rows.size() * sizeof(float));
    out.append(std::move(array));
  }
  return out;
}

py::dict prune_arrays(const std::vector<py::array>& rows, const std::optional<py::array>& text_rows,
                      const py::dict& options,
                      const std::optional<std::vector<std::pair<int32_t, int32_t>>>& grids, int32_t n_threads,
                      const std::string& device) {
  const PruneOptions settings = prune_options(options);
  std::vector<py::array> held = rows;
  py::array held_text;
  PruneInput input;
  for (size_t k = 0; k < held.size(); ++k) {
    input.rows.push_back(matrix_view(held[k], "rows[" + std::to_string(k) + "]"));
  }
  if (text_rows) {
    held_text = *text_rows;
    input.text = matrix_view(held_text, "text_rows");
  }
  if (grids) {
    for (const auto& [height, width] : *grids) input.grids.push_back({{0, width, height, width}});
  }
  RunControl control;
  control.poll = [last = Clock::now()]() mutable {
    const Clock::time_point now = Clock::now();
    if (now - last < std::chrono::milliseconds(20)) return;
    last = now;
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  };
  PruneResult result;
  {
    const py::gil_scoped_release release;
    const std::unique_ptr<Backend> backend = choose_device(device, n_threads).backend;
    std::vector<Buffer> storage(input.rows.size() + 1);
    for (size_t k = 0; k < input.rows.size(); ++k) input.rows[k] = backend->upload(input.rows[k], storage[k]);
    input.text = backend->upload(input.text, storage.back());
    result = prune(*backend, input, settings, control);
  }
  return to_dict(result);
}

}  // namespace

PruneOptions prune_options(const py::dict& options) {
  PruneOptions out;
  int n_budgets = 0;
  for (const auto& [key_object, value] : options) {
    const auto key = key_object.cast<std::string>();
    const auto budget = [&](BudgetKind kind) {
      out.budget = kind;
      ++n_budgets;
    };
    if (key == "keep") {
      budget(BudgetKind::kKeep);
      out.keep = value.cast<double>();
    } else if (key == "max_tokens") {
      budget(BudgetKind::kMaxTokens);
      out.max_tokens = value.cast<int64_t>();
    } else if (key == "coverage") {
      budget(BudgetKind::kCoverage);
      out.coverage = value.cast<double>();
    } else if (key == "selector") {
      out.selector = selector_from(value.cast<std::string>());
    } else if (key == "stage1") {
      out.stage1 = rule_from(value.cast<std::string>());
    } else if (key == "d_inter") {
      out.d_inter = inter_from(value.cast<std::string>());
    } else if (key == "align") {
      out.align = agreement_from(value.cast<std::string>());
    } else if (key == "alpha") {
      out.alpha = value.cast<std::optional<double>>();
    } else if (key == "pool") {
      out.pool = value.cast<double>();
    } else if (key == "pareto_weight") {
      out.pareto_weight = value.cast<double>();
    } else if (key == "inter_weight") {
      out.inter_weight = value.cast<double>();
    } else if (key == "seed") {
      out.seed = value.cast<uint64_t>();
    } else {
      fail(ErrorCode::kInvalidArgument, "[pruning] unknown option \"%.40s\"", key.c_str());
    }
  }
  if (n_budgets != 1) {
    fail(ErrorCode::kInvalidArgument,
         "[pruning] sets %d budgets, must be exactly one of keep, max_tokens, coverage", n_budgets);
  }
  validate(out);
  return out;
}

py::dict to_dict(const PruneResult& result) {
  const PruneReport& report = result.report;
  py::list kept;
  for (const std::vector<int32_t>& rows : report.kept) {
    kept.append(py::array_t<int32_t>(static_cast<py::ssize_t>(rows.size()), rows.data()));
  }
  py::dict seconds;
  for (const auto& [stage, spent] : report.seconds) seconds[py::str(stage)] = spent;
  py::dict out;
  out["kept"] = kept;
  out["n_rows"] = report.n_rows;
  out["budgets"] = report.budgets;
  out["d_intra"] = report.d_intra;
  out["d_intra_mean"] = or_none(report.d_intra_mean);
  out["d_inter"] = or_none(report.d_inter);
  out["alpha"] = or_none(report.alpha);
  out["n_total"] = report.n_total;
  out["budget"] = report.budget;
  out["stage1_budget"] = or_none(report.stage1_budget);
  out["pool_size"] = or_none(report.pool_size);
  out["selector"] = selector_name(report.settings.selector);
  out["settings"] = settings_dict(report.settings);
  out["seconds"] = seconds;
  out["reason"] = report.reason.empty() ? py::none() : py::object(py::str(report.reason));
  out["pooled"] = pooled_rows(result);
  return out;
}

void bind_prune(py::module_& m) {
  m.def("prune", &prune_arrays, "rows"_a, "text_rows"_a, "options"_a, "grids"_a = py::none(),
        "n_threads"_a = 0, "device"_a = "cpu",
        R"(Chooses rows of arrays; returns the report as a dict (see trimtok_cpp.PruneReport).

rows: float32 or float16 [m_k, d], one per picture; text_rows: [M, d] or None; options: exactly one of keep,
max_tokens, coverage, and any of selector, stage1, d_inter, align, alpha, pool, pareto_weight, inter_weight,
seed; grids: (height, width) in cells per picture, for grid_pool; rows behind the grid stay as they are.
n_threads: 0 uses every CPU. Other Python threads run meanwhile. Raises ValueError, NumericsError or MemoryError.)");
}

}  // namespace trimtok::python
