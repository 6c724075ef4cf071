// Keys and values of one sequence, after RoPE, one pair of matrices per layer.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/core/memory.h"
#include "engine/language/placement.h"
#include "trimtok/view.h"

namespace trimtok {

// "f16" | "bf16" | "q8_0" | "f32"; throws Error(kInvalidArgument) listing them.
Dtype kv_dtype_from_name(const char* name);

// Sequence index and position are different things: the cache knows indices only, positions are in the
// rotated keys already. Memory is what `capacity` rows need, nothing is reserved for the trained context.
class KvCache {
 public:
  // width = n_kv_heads * head_dim. Rows of a layer lie where the layer does. Throws Error(kUnsupported) when
  // rows of `width` are not whole blocks of dtype.
  KvCache(int32_t n_layers, int64_t width, Dtype dtype, Placement place = {});
  // Grows to exactly `capacity` rows if it is smaller, keeping contents: for callers that know the length to
  // come. Throws Error(kOutOfMemory) with the size; the cache stays usable as it was.
  void reserve(int64_t capacity);
  // Makes place for n rows behind length(), by half as much again at least, so that appending rows one by one
  // copies each row a bounded number of times.
  void make_room(int64_t n);
  int32_t n_layers() const noexcept { return static_cast<int32_t>(k_.size()); }
  Dtype dtype() const noexcept { return dtype_; }
  int64_t width() const noexcept { return width_; }
  int64_t length() const noexcept { return length_; }
  int64_t capacity() const noexcept { return capacity_; }
  size_t bytes() const noexcept;

  // Where the next n rows go.
  std::vector<int32_t> next(int64_t n) const;
  // Views of rows [first, first + n), n may reach past length() up to capacity().
  Matrix k(int32_t layer, int64_t first, int64_t n);
  Matrix v(int32_t layer, int64_t first, int64_t n);
  // Rows become valid only here, after every layer was written.
  void commit(int64_t n) noexcept { length_ += n; }
  void truncate(int64_t length) noexcept { length_ = length < length_ ? length : length_; }

 private:
  Matrix rows(const Buffer& buffer, int64_t first, int64_t n) const;
  void grow(Buffer& buffer, const MemoryPtr& memory, int64_t capacity) const;
  Placement place_;
  Dtype dtype_;
  int64_t width_;
  int64_t stride_;  // bytes of one row
  int64_t length_ = 0;
  int64_t capacity_ = 0;
  std::vector<Buffer> k_, v_;  // [n_layers]
};

}  // namespace trimtok
