// Rows of pictures that were encoded before: a conversation brings its pictures again at every turn.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "engine/vision/tower.h"

namespace trimtok {

// Least recently used pictures go first. May be used from several threads.
class ImageCache {
 public:
  explicit ImageCache(size_t max_bytes) : max_bytes_(max_bytes) {}
  // Null when not there. `key` names pixels, size and the options of the tower; equal keys, equal rows.
  std::shared_ptr<const EncodedImage> find(const std::string& key);
  // A picture larger than the cache is not kept.
  void add(const std::string& key, std::shared_ptr<const EncodedImage> image);

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<const EncodedImage> image;
  };
  std::mutex mutex_;
  size_t max_bytes_;
  size_t bytes_ = 0;
  std::list<Entry> entries_;  // the latest used first
  std::unordered_map<std::string, std::list<Entry>::iterator> index_;
};

}  // namespace trimtok
