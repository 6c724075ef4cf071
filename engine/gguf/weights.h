// Binds tensors by name and expected shape. This is the only place that knows GGUF's reversed dimension
// order.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/core/memory.h"
#include "engine/gguf/file.h"
#include "trimtok/view.h"

namespace trimtok {

// Collects every problem and reports them all at once in finish(); until then a missing weight is an
// empty view. Matrices keep their stored type: views into the mapped file, or copies in a device's memory.
// Vectors stored as F16/BF16 are converted to f32 here; every value of a vector is checked to be finite.
class WeightBinder {
 public:
  WeightBinder(std::shared_ptr<const GgufFile> file,
               std::string part,  // "language model", "vision tower"
               MemoryPtr memory = nullptr);
  // Where weights bound from here on lie. A tensor that is bound twice is copied to a memory once.
  void place_in(MemoryPtr memory) { memory_ = std::move(memory); }

  // [rows = outputs, cols = inputs]; -1 accepts any size (the caller reads it from the view).
  ConstMatrix matrix(std::string_view name, int64_t rows, int64_t cols);
  ConstMatrix optional_matrix(std::string_view name, int64_t rows, int64_t cols);
  // A weight of any rank seen as rows x (product of the other dimensions), e.g. a convolution kernel.
  ConstMatrix flattened(std::string_view name, int64_t rows, int64_t cols);
  // A matrix that the file stores by its inputs (ne = [outputs, inputs]), turned round into f32; -1 as above.
  ConstMatrix transposed(std::string_view name, int64_t rows, int64_t cols);
  // n elements, -1 for any number; nullptr when absent.
  const float* vector(std::string_view name, int64_t n);
  const float* optional_vector(std::string_view name, int64_t n);
  // The same for numbers that the host itself computes with.
  const float* host_vector(std::string_view name, int64_t n);
  const float* optional_host_vector(std::string_view name, int64_t n);
  bool has(std::string_view name) const;
  size_t weight_bytes() const { return storage_->weight_bytes; }

  // Throws one Error(kFormat | kUnsupported) that lists all gaps (missing, wrong shape, unusable type).
  void finish();
  // What keeps the views alive: the mapping, converted vectors, copies on a device. The model stores it.
  struct Storage {
    std::shared_ptr<const GgufFile> file;
    std::vector<Buffer> converted;
    std::vector<Buffer> uploaded;
    size_t weight_bytes = 0;  // bytes of all tensors bound
  };
  std::shared_ptr<const Storage> storage() const { return storage_; }

 private:
  ConstMatrix bind(std::string_view name, int64_t rows, int64_t cols, bool required, bool flatten);
  // As bind(), but always in the mapped file.
  ConstMatrix find(std::string_view name, int64_t rows, int64_t cols, bool required, bool flatten);
  const float* bind_vector(std::string_view name, int64_t n, bool required);
  // `data` of the host where it is to lie. source: what was copied before under the same name is not again.
  const void* placed(const void* source, const void* data, size_t bytes);
  // The tensor, or nullptr after noting why it cannot be had.
  const TensorInfo* usable(std::string_view name, bool required);
  const float* convert(const TensorInfo& tensor);
  bool check_finite(const TensorInfo& tensor, const float* values);
  void add_problem(std::string_view name, const std::string& problem, bool unsupported = false);
  void count(const TensorInfo& tensor);

  std::shared_ptr<Storage> storage_;
  std::string part_;
  MemoryPtr memory_;  // null: the host's
  std::map<std::pair<const void*, const DeviceMemory*>, const void*> placed_;
  std::vector<std::string> problems_;
  std::set<const TensorInfo*> bound_;  // tied weights are bound twice and counted once
  bool unsupported_only_ = true;
};

}  // namespace trimtok
