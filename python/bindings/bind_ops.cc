// The kernel seam for tests and tools: which tables there are, and two ops on plain arrays.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "engine/core/backend.h"
#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/core/threads.h"
#include "python/bindings/convert.h"
#include "python/bindings/module.h"
#include "trimtok/kernels.h"

namespace py = pybind11;

namespace trimtok::python {
namespace {

constexpr int32_t kMaxThreads = 512;

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (int32_t i = 0; i < kNumIsas; ++i) {
    const auto isa = static_cast<Isa>(i);
    if (cpu_table(isa) != nullptr) names.emplace_back(isa_name(isa));
  }
  return names;
}

const KernelTable& table_of(const std::string& name) {
  std::string offered;
  for (const std::string& other : available_isas()) offered += (offered.empty() ? "" : ", ") + other;
  for (int32_t i = 0; i < kNumIsas; ++i) {
    const auto isa = static_cast<Isa>(i);
    if (name == isa_name(isa) && cpu_table(isa) != nullptr) return *cpu_table(isa);
  }
  fail(ErrorCode::kInvalidArgument, "[isa] is \"%s\", this machine and build offer: %s", name.c_str(),
       offered.c_str());
}

std::map<std::string, std::string> served_by(const std::string& isa) {
  const KernelTable& table = table_of(isa);
  std::map<std::string, std::string> result;
  for (int32_t i = 0; i < static_cast<int32_t>(Op::kCount); ++i) {
    result[op_name(static_cast<Op>(i))] = isa_name(table.served_by[i]);
  }
  return result;
}

py::list dtypes() {
  py::list result;
  const auto append = [&](int32_t id, const char* use) {
    const DtypeInfo& info = *dtype_info(id);
    py::dict row;
    row["id"] = id;
    row["name"] = info.name;
    row["block_elems"] = info.block_elems;
    row["block_bytes"] = info.block_bytes;
    row["use"] = use;
    result.append(row);
  };
  const auto use_name = [](DtypeUse use) {
    return use == DtypeUse::kWeight ? "weight" : use == DtypeUse::kRecognised ? "recognised" : "runtime";
  };
#define TT_DTYPE(name, id, block_elems, block_bytes, use) append(id, use_name(DtypeUse::use));
#include "trimtok/dtypes.def"
#undef TT_DTYPE
  return result;
}

// A weight matrix over the caller's memory: exactly rows * cols elements of whole blocks.
ConstMatrix weight_view(const py::buffer_info& data, int32_t dtype_id, int64_t rows, int64_t cols) {
  const DtypeInfo* info = dtype_info(dtype_id);
  if (info == nullptr || info->use != DtypeUse::kWeight) {
    fail(ErrorCode::kInvalidArgument,
         "[dtype_id] is %d (%s), must be one whose use is \"weight\" in dtypes()", dtype_id,
         info == nullptr ? "unknown" : info->name);
  }
  const auto dtype = static_cast<Dtype>(dtype_id);
  const int64_t bytes = row_bytes(dtype, cols);
  int64_t total = 0;
  if (rows < 0 || bytes < 0 || __builtin_mul_overflow(rows, bytes, &total)) {
    fail(ErrorCode::kInvalidArgument,
         "[shape] is %lld x %lld, must be non-negative with rows of whole blocks of %d",
         static_cast<long long>(rows), static_cast<long long>(cols), info->block_elems);
  }
  if (data.ndim != 1 || data.itemsize != 1 || (data.size > 1 && data.strides[0] != 1) || data.size != total) {
    fail(ErrorCode::kInvalidArgument, "[data] has %lld items of %lld bytes, must be %lld contiguous bytes",
         static_cast<long long>(data.size), static_cast<long long>(data.itemsize),
         static_cast<long long>(total));
  }
  return ConstMatrix(data.ptr, dtype, rows, cols, bytes);
}

// Threads and scratch of one call.
struct Execution {
  explicit Execution(int32_t n_threads) : pool(n_threads) {
    context.n_threads = n_threads;
    context.pool = &pool;
    context.parallel = [](void* self, int64_t n_tasks, ExecContext::Task task, void* arg) {
      static_cast<ThreadPool*>(self)->parallel(n_tasks, task, arg);
    };
    context.scratch_owner = &arena;
    context.scratch = [](void* owner, size_t bytes) -> void* {
      try {
        return static_cast<Arena*>(owner)->array<char>(static_cast<int64_t>(bytes));
      } catch (const Error&) {
        return nullptr;
      }
    };
  }
  Execution(const Execution&) = delete;
  Execution& operator=(const Execution&) = delete;
  ThreadPool pool;
  Arena arena;
  ExecContext context;
};

py::array_t<float> dequantize(const py::buffer& data, int32_t dtype_id, int64_t rows, int64_t cols,
                              const std::string& isa) {
  const KernelTable& table = table_of(isa);
  const py::buffer_info bytes = data.request();
  const ConstMatrix source = weight_view(bytes, dtype_id, rows, cols);
  if (rows > INT32_MAX) fail(ErrorCode::kInvalidArgument, "[rows] must be below 2^31");
  py::array_t<float> out({rows, cols});
  std::vector<int32_t> ids(static_cast<size_t>(rows));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  GatherRowsArgs args;
  args.out = Matrix{out.mutable_data(), Dtype::kF32, rows, cols, cols * static_cast<int64_t>(sizeof(float))};
  args.table = source;
  args.ids = ids.data();
  const py::gil_scoped_release release;
  Execution execution(1);
  check_status(table.gather_rows(execution.context, args), "gather_rows", "dequantize");
  return out;
}

py::array_t<float> matmul(const F32Array& x, const py::buffer& w, int32_t dtype_id, int64_t n_outputs,
                          const std::string& isa, int32_t n_threads, const std::string& compute) {
  const KernelTable& table = table_of(isa);
  if (x.ndim() != 2) {
    fail(ErrorCode::kInvalidArgument, "[x] has %d dimensions, must be float32 [T, K]",
         static_cast<int>(x.ndim()));
  }
  if (n_threads < 1 || n_threads > kMaxThreads) {
    fail(ErrorCode::kInvalidArgument, "[n_threads] is %d, must be 1 to %d", n_threads, kMaxThreads);
  }
  const int64_t rows = x.shape(0);
  const int64_t k = x.shape(1);
  const auto f32_bytes = static_cast<int64_t>(sizeof(float));
  const py::buffer_info bytes = w.request();
  MatmulArgs args;
  args.w = weight_view(bytes, dtype_id, n_outputs, k);
  args.x = ConstMatrix(x.data(), Dtype::kF32, rows, k, k * f32_bytes);
  py::array_t<float> out({rows, n_outputs});
  args.out = Matrix{out.mutable_data(), Dtype::kF32, rows, n_outputs, n_outputs * f32_bytes};
  args.compute = cpu_compute(table.isa, compute_policy_from_name(compute.c_str()), args.w.dtype, rows);
  const py::gil_scoped_release release;
  Execution execution(n_threads);
  check_status(table.matmul(execution.context, args), "matmul", "ops.matmul");
  return out;
}

}  // namespace

void bind_ops(py::module_& m) {
  py::module_ ops = m.def_submodule("ops", "The kernel tables, for tests and tools.");
  ops.def("isas", &available_isas,
          "Names of the instruction sets that this build and machine offer, \"ref\" first.");
  ops.def(
      "best_isa", [] { return std::string(isa_name(best_cpu_isa())); },
      "The one that models use unless TRIMTOK_CPU_ISA names another.");
  ops.def(
      "served_by", &served_by, py::arg("isa"),
      "For every op, the instruction set whose body the table of `isa` calls. ValueError: no such table.");
  ops.def("dtypes", &dtypes,
          "GGUF tensor types as dicts: id, name, block_elems, block_bytes, use (\"weight\", \"recognised\", "
          "\"runtime\").");
  ops.def("dequantize", &dequantize, py::arg("data"), py::arg("dtype_id"), py::arg("rows"), py::arg("cols"),
          py::arg("isa"),
          "Packed rows (bytes or uint8, rows * cols elements) as float32 [rows, cols]. ValueError: a dtype "
          "that is "
          "not a weight, a size that does not fit, an unknown isa.");
  ops.def(
      "matmul", &matmul, py::arg("x"), py::arg("w"), py::arg("dtype_id"), py::arg("n_outputs"),
      py::arg("isa"), py::arg("n_threads") = 1, py::arg("compute") = "f32",
      "x . w^T: x float32 [T, K], w packed rows [n_outputs, K] as bytes or uint8; float32 [T, n_outputs]. "
      "compute: as for Model. "
      "ValueError as dequantize, or n_threads outside 1 to 512.");
}

}  // namespace trimtok::python
