// Hands out parts of large segments and keeps what comes back: asking a device for memory, or giving it back,
// makes the device wait.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace trimtok {

class BlockAllocator {
 public:
  static constexpr size_t kAlignment = 256;
  static constexpr size_t kSegment = size_t{32} << 20;  // for requests of less than half of it
  static constexpr size_t kGranule = size_t{2} << 20;   // sizes of segments are multiples of it

  struct Source {
    std::function<void*(size_t bytes)> allocate;  // nullptr: none left
    std::function<void(void* p, size_t bytes)> release;
  };
  explicit BlockAllocator(Source source) : source_(std::move(source)) {}
  ~BlockAllocator();
  BlockAllocator(const BlockAllocator&) = delete;
  BlockAllocator& operator=(const BlockAllocator&) = delete;

  // kAlignment-aligned; the smallest free block that is large enough, the lowest of equals. When the source
  // has no more, segments without a block in use go back to it first. nullptr: none left.
  void* allocate(size_t bytes);
  void release(void* p);
  size_t used() const;  // bytes of blocks handed out
  size_t held() const;  // bytes of all segments

 private:
  struct Block {
    size_t size = 0;
    bool free = false;
    bool begins_segment = false;
  };
  using Blocks = std::map<std::byte*, Block>;  // every byte of every segment lies in one of them
  Blocks::iterator find_free(size_t bytes);
  bool grow(size_t bytes);
  bool add_segment(size_t bytes);
  void give_back_unused();

  Source source_;
  mutable std::mutex mutex_;
  Blocks blocks_;
  std::set<std::pair<size_t, std::byte*>> free_;
  size_t used_ = 0;
  size_t held_ = 0;
};

}  // namespace trimtok
