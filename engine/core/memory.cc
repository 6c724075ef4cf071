#include "engine/core/memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "engine/core/error.h"

namespace trimtok {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kDeviceAlignment = 256;  // of rows that a device reads together
// Small enough to cost nothing for a tiny model, large enough that a real one needs few chunks.
constexpr size_t kMinChunk = size_t{1} << 20;

// From here on pages of this size are worth having: they are touched 512 at a time and miss the TLB less.
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kFromHuge = 2 * kHugePage;

size_t align_up(size_t bytes, size_t alignment = kAlignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

void* allocate(size_t bytes) {
  const size_t alignment = bytes >= kFromHuge ? kHugePage : kAlignment;
  if (bytes > SIZE_MAX - alignment) return nullptr;                     // the round-up would wrap
  void* p = std::aligned_alloc(alignment, align_up(bytes, alignment));  // wants a multiple of the alignment
#if defined(__linux__)
  // A wish: where the system has none to give, small pages serve.
  if (p != nullptr && bytes >= kFromHuge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return p;
}

class CalledWork final : public RecordedWork {
 public:
  explicit CalledWork(std::function<void()> work) : work_(std::move(work)) {}
  void launch() override { work_(); }

 private:
  std::function<void()> work_;
};

}  // namespace

std::unique_ptr<RecordedWork> DeviceMemory::record(std::function<void()> work) {
  return std::make_unique<CalledWork>(std::move(work));
}

Buffer::Buffer(size_t bytes, MemoryPtr memory) : memory_(std::move(memory)), size_(bytes) {
  if (bytes == 0) return;
  void* p = memory_ == nullptr ? allocate(bytes) : memory_->allocate(bytes);
  if (p == nullptr) {
    const double mib = static_cast<double>(bytes) / 1048576.0;
    if (memory_ == nullptr) {
      fail(ErrorCode::kOutOfMemory,
           "[memory] cannot allocate %.1f MiB; use a shorter prompt, fewer or smaller pictures, or pruning",
           mib);
    }
    fail(ErrorCode::kOutOfMemory,
         "[memory] cannot allocate %.1f MiB on %s: %.1f MiB are in use and %.1f MiB left; use a shorter "
         "prompt, "
         "fewer or smaller pictures, pruning, or a smaller gpu_layers",
         mib, memory_->name(), static_cast<double>(memory_->used()) / 1048576.0,
         static_cast<double>(memory_->available()) / 1048576.0);
  }
  data_ = static_cast<std::byte*>(p);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (memory_ == nullptr) {
    std::free(data_);
  } else {
    memory_->release(data_, size_);
  }
}

Buffer::Buffer(Buffer&& other) noexcept
    : memory_(std::move(other.memory_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  Buffer old(std::move(*this));
  memory_ = std::move(other.memory_);
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

void Buffer::copy_from(const Buffer& other, size_t bytes) {
  if (bytes == 0) return;
  if (memory_ == nullptr) {
    std::memcpy(data_, other.data_, bytes);
  } else {
    memory_->copy(data_, other.data_, bytes);
  }
}

void Buffer::write(const void* from, size_t bytes) {
  if (bytes == 0) return;
  if (memory_ == nullptr) {
    std::memcpy(data_, from, bytes);
  } else {
    memory_->write(data_, from, bytes);
  }
}

void* Arena::take(size_t bytes) {
  bytes = align_up(std::max<size_t>(bytes, 1), memory_ == nullptr ? kAlignment : kDeviceAlignment);
  while (chunk_ < chunks_.size()) {
    Buffer& chunk = chunks_[chunk_];
    if (used_ + bytes <= chunk.size()) {
      void* p = chunk.data() + used_;
      used_ += bytes;
      return p;
    }
    ++chunk_;
    used_ = 0;
  }
  chunks_.emplace_back(std::max(bytes, kMinChunk), memory_);
  used_ = bytes;
  return chunks_.back().data();
}

Matrix Arena::matrix(int64_t rows, int64_t cols, Dtype dtype) {
  const int64_t stride = row_bytes(dtype, cols);
  if (rows < 0 || cols < 0 || stride < 0 || (stride > 0 && rows > INT64_MAX / stride)) {
    fail(ErrorCode::kInternal, "[memory] no matrix of %lld x %lld %s", static_cast<long long>(rows),
         static_cast<long long>(cols), dtype_info(dtype)->name);
  }
  return {take(static_cast<size_t>(rows * stride)), dtype, rows, cols, stride};
}

size_t Arena::capacity() const noexcept {
  size_t total = 0;
  for (const Buffer& chunk : chunks_) total += chunk.size();
  return total;
}

void Arena::clear() noexcept {
  chunks_.clear();
  chunk_ = 0;
  used_ = 0;
}

}  // namespace trimtok
