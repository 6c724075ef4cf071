// Owners of memory. A Buffer owns and never computes; views (trimtok/view.h) compute and never own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "trimtok/view.h"

namespace trimtok {

// 64-byte aligned host memory, not initialised. Throws Error(kOutOfMemory) naming the size.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  std::byte* data() const noexcept { return data_.get(); }
  size_t size() const noexcept { return size_; }

 private:
  struct Free {
    void operator()(std::byte* p) const noexcept;
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t size_ = 0;
};

// Rows [first, first + n) of a matrix; an absent one stays absent.
inline ConstMatrix row_range(const ConstMatrix& m, int64_t first, int64_t n) {
  if (m.data == nullptr) return {};
  return {static_cast<const std::byte*>(m.data) + first * m.stride, m.dtype, n, m.cols, m.stride};
}
inline Matrix row_range(const Matrix& m, int64_t first, int64_t n) {
  if (m.data == nullptr) return {};
  return {static_cast<std::byte*>(m.data) + first * m.stride, m.dtype, n, m.cols, m.stride};
}

// A stack of activations. Matrices taken from it live until the Mark taken before them is released,
// so a layer's scratch costs nothing after the first layer.
class Arena {
 public:
  Matrix matrix(int64_t rows, int64_t cols, Dtype dtype = Dtype::kF32);
  template <typename T>
  T* array(int64_t n) {
    return static_cast<T*>(take(static_cast<size_t>(n) * sizeof(T)));
  }

  // Releases everything taken since its construction.
  class Mark {
   public:
    explicit Mark(Arena& arena) : arena_(arena), chunk_(arena.chunk_), used_(arena.used_) {}
    ~Mark() {
      arena_.chunk_ = chunk_;
      arena_.used_ = used_;
    }
    Mark(const Mark&) = delete;
    Mark& operator=(const Mark&) = delete;

   private:
    Arena& arena_;
    size_t chunk_;
    size_t used_;
  };

  size_t capacity() const noexcept;  // bytes held
  void clear() noexcept;             // gives all memory back; no matrix may be in use

 private:
  void* take(size_t bytes);
  std::vector<Buffer> chunks_;
  size_t chunk_ = 0;  // index of the chunk in use
  size_t used_ = 0;   // bytes used of it
};

}  // namespace trimtok
