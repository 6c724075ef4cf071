// Binds tensors by name and expected shape. This is the only place that knows GGUF's reversed dimension
// order.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/memory.h"
#include "engine/gguf/file.h"
#include "trimtok/view.h"

namespace trimtok {

// Collects every problem and reports them all at once in finish(); until then a missing weight is an
// empty view. Matrices are views into the mapped file, in their stored type. Vectors stored as
// F16/BF16 are converted to f32 here; every value of a vector is checked to be finite.
class WeightBinder {
 public:
  WeightBinder(std::shared_ptr<const GgufFile> file,
               std::string part);  // part: "language model", "vision tower"

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
  bool has(std::string_view name) const;

  // Throws one Error(kFormat | kUnsupported) that lists all gaps (missing, wrong shape, unusable type).
  void finish();
  // What keeps the views alive: the mapping and converted vectors. The model stores it.
  struct Storage {
    std::shared_ptr<const GgufFile> file;
    std::vector<Buffer> converted;
    size_t weight_bytes = 0;  // bytes of all tensors bound
  };
  std::shared_ptr<const Storage> storage() const { return storage_; }

 private:
  ConstMatrix bind(std::string_view name, int64_t rows, int64_t cols, bool required, bool flatten);
  const float* bind_vector(std::string_view name, int64_t n, bool required);
  // The tensor, or nullptr after noting why it cannot be had.
  const TensorInfo* usable(std::string_view name, bool required);
  const float* convert(const TensorInfo& tensor);
  bool check_finite(const TensorInfo& tensor, const float* values);
  void add_problem(std::string_view name, const std::string& problem, bool unsupported = false);
  void count(const TensorInfo& tensor);

  std::shared_ptr<Storage> storage_;
  std::string part_;
  std::vector<std::string> problems_;
  std::set<const TensorInfo*> bound_;  // tied weights are bound twice and counted once
  bool unsupported_only_ = true;
};

}  // namespace trimtok
