#include "engine/runtime/image_cache.h"

namespace trimtok {

std::shared_ptr<const EncodedImage> ImageCache::find(const std::string& key) {
  std::lock_guard lock(mutex_);
  const auto found = index_.find(key);
  if (found == index_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->image;
}

void ImageCache::add(const std::string& key, std::shared_ptr<const EncodedImage> image) {
  const size_t size = image->storage.size();
  std::lock_guard lock(mutex_);
  if (size > max_bytes_ || index_.contains(key)) return;  // two threads may have encoded it at once
  while (bytes_ + size > max_bytes_) {
    bytes_ -= entries_.back().image->storage.size();
    index_.erase(entries_.back().key);
    entries_.pop_back();
  }
  entries_.push_front({key, std::move(image)});
  index_.emplace(key, entries_.begin());
  bytes_ += size;
}

}  // namespace trimtok
