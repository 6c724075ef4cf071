#include "engine/gguf/weights.h"

#include <cinttypes>
#include <cmath>
#include <cstring>

#include "engine/core/error.h"
#include "engine/gguf/quote.h"
#include "trimtok/kernels.h"

namespace trimtok {
namespace {

// A wrong architecture makes every weight a problem; the first ones tell enough.
constexpr size_t kMaxListed = 20;

float widen_f16(uint16_t bits) {
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  float magnitude;
  if (exponent == 0x1f) {
    magnitude = mantissa == 0 ? HUGE_VALF : std::nanf("");
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(mantissa | 0x400u), static_cast<int>(exponent) - 25);
  }
  return (bits & 0x8000u) != 0 ? -magnitude : magnitude;
}

float widen_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

int significant_dims(const TensorInfo& tensor) {
  int n = 4;
  while (n > 1 && tensor.ne[n - 1] == 1) --n;
  return n;
}

// "4 x 3 (ne = [3, 4])": our order, then the file's.
std::string shape_text(const TensorInfo& tensor) {
  const int n = significant_dims(tensor);
  std::string ours;
  std::string theirs;
  for (int d = 0; d < n; ++d) {
    ours += (d == 0 ? "" : " x ") + std::to_string(tensor.ne[n - 1 - d]);
    theirs += (d == 0 ? "" : ", ") + std::to_string(tensor.ne[d]);
  }
  return ours + " (ne = [" + theirs + "])";
}

std::string size_text(int64_t n) {
  return n < 0 ? "any" : std::to_string(n);
}

std::string expected_text(int64_t rows, int64_t cols, bool flatten) {
  const std::string shape = size_text(rows) + " x " + size_text(cols);
  if (flatten) return shape + " once its inner dimensions are joined";
  return shape + " (ne = [" + size_text(cols) + ", " + size_text(rows) + "])";
}

bool fits(int64_t size, int64_t expected) {
  return expected < 0 || size == expected;
}

}  // namespace

WeightBinder::WeightBinder(std::shared_ptr<const GgufFile> file, std::string part, MemoryPtr memory)
    : storage_(std::make_shared<Storage>()), part_(std::move(part)), memory_(std::move(memory)) {
  storage_->file = std::move(file);
}

ConstMatrix WeightBinder::matrix(std::string_view name, int64_t rows, int64_t cols) {
  return bind(name, rows, cols, true, false);
}

ConstMatrix WeightBinder::optional_matrix(std::string_view name, int64_t rows, int64_t cols) {
  return bind(name, rows, cols, false, false);
}

ConstMatrix WeightBinder::flattened(std::string_view name, int64_t rows, int64_t cols) {
  return bind(name, rows, cols, true, true);
}

ConstMatrix WeightBinder::transposed(std::string_view name, int64_t rows, int64_t cols) {
  const ConstMatrix stored = find(name, cols, rows, true, false);
  if (stored.data == nullptr) return {};
  const int64_t n_out = stored.cols, n_in = stored.rows;
  Buffer buffer(static_cast<size_t>(n_out * n_in) * sizeof(float));
  auto* out = reinterpret_cast<float*>(buffer.data());
  // The reference body knows every type; it runs once per file.
  std::vector<float> line(static_cast<size_t>(n_out));
  const Matrix line_view{line.data(), Dtype::kF32, 1, n_out, row_bytes(Dtype::kF32, n_out)};
  const ExecContext here;
  for (int32_t i = 0; i < n_in; ++i) {
    check_status(ref::gather_rows(here, {line_view, stored, &i}), "gather_rows", part_.c_str());
    for (int64_t o = 0; o < n_out; ++o) out[o * n_in + i] = line[static_cast<size_t>(o)];
  }
  const void* data = placed(stored.data, out, buffer.size());
  if (memory_ == nullptr) storage_->converted.push_back(std::move(buffer));
  return {data, Dtype::kF32, n_out, n_in, row_bytes(Dtype::kF32, n_in)};
}

const float* WeightBinder::vector(std::string_view name, int64_t n) {
  return bind_vector(name, n, true);
}

const float* WeightBinder::optional_vector(std::string_view name, int64_t n) {
  return bind_vector(name, n, false);
}

const float* WeightBinder::host_vector(std::string_view name, int64_t n) {
  const MemoryPtr memory = std::exchange(memory_, nullptr);
  const float* values = bind_vector(name, n, true);
  memory_ = memory;
  return values;
}

const float* WeightBinder::optional_host_vector(std::string_view name, int64_t n) {
  return has(name) ? host_vector(name, n) : nullptr;
}

bool WeightBinder::has(std::string_view name) const {
  return storage_->file->find_tensor(name) != nullptr;
}

void WeightBinder::add_problem(std::string_view name, const std::string& problem, bool unsupported) {
  problems_.push_back(quote_text(name) + " " + problem);
  unsupported_only_ = unsupported_only_ && unsupported;
}

const TensorInfo* WeightBinder::usable(std::string_view name, bool required) {
  const TensorInfo* tensor = storage_->file->find_tensor(name);
  if (tensor == nullptr) {
    if (required) add_problem(name, "is missing");
    return nullptr;
  }
  if (tensor->bytes == 0) {
    add_problem(name, "is empty: its shape is " + shape_text(*tensor));
    return nullptr;
  }
  return tensor;
}

ConstMatrix WeightBinder::bind(std::string_view name, int64_t rows, int64_t cols, bool required,
                               bool flatten) {
  ConstMatrix m = find(name, rows, cols, required, flatten);
  if (m.data != nullptr) m.data = placed(m.data, m.data, static_cast<size_t>(m.rows * m.stride));
  return m;
}

ConstMatrix WeightBinder::find(std::string_view name, int64_t rows, int64_t cols, bool required,
                               bool flatten) {
  const TensorInfo* tensor = usable(name, required);
  if (tensor == nullptr) return {};
  // Trailing dimensions of 1 may be kept or dropped by writers (spec 1.3), so a single row may be one of
  // them.
  const int n = significant_dims(*tensor);
  int64_t have_rows = tensor->ne[1];
  int64_t have_cols = tensor->ne[0];
  if (flatten) {
    have_rows = rows == 1 ? 1 : tensor->ne[n - 1];
    have_cols = tensor->ne[0] * tensor->ne[1] * tensor->ne[2] * tensor->ne[3] / have_rows;
  }
  if ((!flatten && n > 2) || !fits(have_rows, rows) || !fits(have_cols, cols)) {
    add_problem(name,
                "has shape " + shape_text(*tensor) + ", expected " + expected_text(rows, cols, flatten));
    return {};
  }
  const DtypeInfo& info = *dtype_info(tensor->dtype);
  const int64_t stride = row_bytes(tensor->dtype, have_cols);
  if (info.use != DtypeUse::kWeight || stride < 0) {
    add_problem(name,
                format("has type %s, which cannot be used as a weight; use another quantisation", info.name),
                true);
    return {};
  }
  count(*tensor);
  return {tensor->data, tensor->dtype, have_rows, have_cols, stride};
}

const float* WeightBinder::bind_vector(std::string_view name, int64_t n, bool required) {
  const TensorInfo* tensor = usable(name, required);
  if (tensor == nullptr) return nullptr;
  if (significant_dims(*tensor) > 1 || !fits(tensor->ne[0], n)) {
    add_problem(name, "has shape " + shape_text(*tensor) + ", expected " + size_text(n));
    return nullptr;
  }
  const float* values = nullptr;
  switch (tensor->dtype) {
    case Dtype::kF32:
      values = reinterpret_cast<const float*>(tensor->data);
      break;
    case Dtype::kF16:
    case Dtype::kBF16:
      values = convert(*tensor);
      break;
    default:
      add_problem(
          name,
          format("has type %s, expected F32, F16 or BF16 for a vector", dtype_info(tensor->dtype)->name),
          true);
      return nullptr;
  }
  if (!check_finite(*tensor, values)) return nullptr;
  count(*tensor);
  return static_cast<const float*>(
      placed(tensor->data, values, static_cast<size_t>(tensor->ne[0]) * sizeof(float)));
}

const void* WeightBinder::placed(const void* source, const void* data, size_t bytes) {
  if (memory_ == nullptr) return data;
  const void*& copy = placed_[{source, memory_.get()}];
  if (copy == nullptr) {
    Buffer buffer(bytes, memory_);
    buffer.write(data, bytes);
    copy = buffer.data();
    storage_->uploaded.push_back(std::move(buffer));
  }
  return copy;
}

const float* WeightBinder::convert(const TensorInfo& tensor) {
  const auto n = static_cast<size_t>(tensor.ne[0]);
  Buffer buffer(n * sizeof(float));
  auto* out = reinterpret_cast<float*>(buffer.data());
  for (size_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, tensor.data + i * sizeof bits, sizeof bits);
    out[i] = tensor.dtype == Dtype::kF16 ? widen_f16(bits) : widen_bf16(bits);
  }
  storage_->converted.push_back(std::move(buffer));
  return out;
}

bool WeightBinder::check_finite(const TensorInfo& tensor, const float* values) {
  for (int64_t i = 0; i < tensor.ne[0]; ++i) {
    if (!std::isfinite(values[i])) {
      add_problem(tensor.name, format("holds %g at index %" PRId64 ", expected finite numbers",
                                      static_cast<double>(values[i]), i));
      return false;
    }
  }
  return true;
}

void WeightBinder::count(const TensorInfo& tensor) {
  if (bound_.insert(&tensor).second) storage_->weight_bytes += tensor.bytes;
}

void WeightBinder::finish() {
  storage_->file->check_size();
  if (problems_.empty()) return;
  std::string list;
  for (size_t i = 0; i < problems_.size() && i < kMaxListed; ++i) list += (i == 0 ? "" : "; ") + problems_[i];
  if (problems_.size() > kMaxListed) list += format("; and %zu more", problems_.size() - kMaxListed);
  fail(unsupported_only_ ? ErrorCode::kUnsupported : ErrorCode::kFormat,
       "[%s] %s: %zu weights cannot be used: %s", part_.c_str(), quote_path(storage_->file->path()).c_str(),
       problems_.size(), list.c_str());
}

}  // namespace trimtok
