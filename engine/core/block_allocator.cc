#include "engine/core/block_allocator.h"

#include <algorithm>
#include <iterator>

namespace trimtok {
namespace {

// bytes <= SIZE_MAX - granule, which the caller has checked.
size_t align_up(size_t bytes, size_t granule) {
  return (bytes + granule - 1) / granule * granule;
}

}  // namespace

BlockAllocator::~BlockAllocator() {
  // Owners of blocks keep the memory, and so this, alive: nothing is in use any more.
  give_back_unused();
}

void* BlockAllocator::allocate(size_t bytes) {
  if (bytes > SIZE_MAX / 2) return nullptr;
  const std::lock_guard lock(mutex_);
  bytes = align_up(std::max<size_t>(bytes, 1), kAlignment);
  auto at = find_free(bytes);
  if (at == blocks_.end()) {
    if (!grow(bytes)) return nullptr;
    at = find_free(bytes);
  }
  auto& [data, block] = *at;
  free_.erase({block.size, data});
  if (block.size > bytes) {
    blocks_[data + bytes] = {block.size - bytes, true, false};
    free_.insert({block.size - bytes, data + bytes});
    block.size = bytes;
  }
  block.free = false;
  used_ += bytes;
  return data;
}

void BlockAllocator::release(void* p) {
  const std::lock_guard lock(mutex_);
  auto at = blocks_.find(static_cast<std::byte*>(p));
  if (at == blocks_.end() || at->second.free) return;
  used_ -= at->second.size;
  at->second.free = true;
  if (const auto next = std::next(at);
      next != blocks_.end() && next->second.free && !next->second.begins_segment) {
    free_.erase({next->second.size, next->first});
    at->second.size += next->second.size;
    blocks_.erase(next);
  }
  if (!at->second.begins_segment) {
    if (const auto before = std::prev(at); before->second.free) {
      free_.erase({before->second.size, before->first});
      before->second.size += at->second.size;
      blocks_.erase(at);
      at = before;
    }
  }
  free_.insert({at->second.size, at->first});
}

size_t BlockAllocator::used() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

size_t BlockAllocator::held() const {
  const std::lock_guard lock(mutex_);
  return held_;
}

BlockAllocator::Blocks::iterator BlockAllocator::find_free(size_t bytes) {
  const auto found = free_.lower_bound({bytes, nullptr});
  return found == free_.end() ? blocks_.end() : blocks_.find(found->second);
}

bool BlockAllocator::grow(size_t bytes) {
  const size_t needed = align_up(bytes, kGranule);
  if (bytes < kSegment / 2 && add_segment(kSegment)) return true;
  if (add_segment(needed)) return true;
  give_back_unused();
  return add_segment(needed);
}

bool BlockAllocator::add_segment(size_t bytes) {
  auto* p = static_cast<std::byte*>(source_.allocate(bytes));
  if (p == nullptr) return false;
  blocks_[p] = {bytes, true, true};
  free_.insert({bytes, p});
  held_ += bytes;
  return true;
}

void BlockAllocator::give_back_unused() {
  for (auto at = blocks_.begin(); at != blocks_.end();) {
    const auto next = std::next(at);
    const auto& [data, block] = *at;
    if (block.free && block.begins_segment && (next == blocks_.end() || next->second.begins_segment)) {
      free_.erase({block.size, data});
      held_ -= block.size;
      source_.release(data, block.size);
      blocks_.erase(at);
    }
    at = next;
  }
}

}  // namespace trimtok
