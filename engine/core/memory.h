// Owners of memory. A Buffer owns and never computes; views (trimtok/view.h) compute and never own.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "trimtok/view.h"

namespace trimtok {

// Work of a device that was recorded once, to be run as often as wanted.
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
  virtual void launch() = 0;
};

// Memory that is not the host's. Its pointers are numbers to the host: only ops and the copies below follow
// them. Ops and copies of one device happen in the order in which they are asked for.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  virtual const char* name() const noexcept = 0;  // "cuda"
  virtual std::string description() const { return name(); }
  // 256-byte aligned, not initialised; nullptr when memory is short.
  virtual void* allocate(size_t bytes) noexcept = 0;
  // What ops and copies asked for before may still use p: it is handed out again behind them only.
  virtual void release(void* p, size_t bytes) noexcept = 0;
  // From the host. `from` may change or go as soon as this returns.
  virtual void write(void* to, const void* from, size_t bytes) = 0;
  // To the host. Returns when the bytes are there, and so when everything asked for before has been done.
  virtual void read(void* to, const void* from, size_t bytes) = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  // The ops that `work` asks for, recorded and not run; `work` must not allocate or copy, and must stay as it
  // is. A device that cannot record keeps `work` and calls it. The record must not outlive this.
  virtual std::unique_ptr<RecordedWork> record(std::function<void()> work);
  // Bytes that allocate() could still hand out, and those that it has handed out.
  virtual size_t available() const = 0;
  virtual size_t used() const noexcept = 0;

  // The op asked for last, for messages: failures of a device show when the host waits for it.
  std::atomic<const char*> last_op{nullptr};
};
using MemoryPtr = std::shared_ptr<DeviceMemory>;  // null: the host's memory

// 64-byte aligned memory of the host or of a device, not initialised. Throws Error(kOutOfMemory) naming the
// size.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes, MemoryPtr memory = nullptr);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  std::byte* data() const noexcept { return data_; }
  size_t size() const noexcept { return size_; }
  // The first `bytes` of `other`, a buffer of the same memory.
  void copy_from(const Buffer& other, size_t bytes);
  // The first `bytes` become those at `from`, which is the host's.
  void write(const void* from, size_t bytes);

 private:
  MemoryPtr memory_;
  std::byte* data_ = nullptr;
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
  explicit Arena(MemoryPtr memory = nullptr) : memory_(std::move(memory)) {}
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
  MemoryPtr memory_;
  std::vector<Buffer> chunks_;
  size_t chunk_ = 0;  // index of the chunk in use
  size_t used_ = 0;   // bytes used of it
};

}  // namespace trimtok
