// A whole file mapped read-only.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace trimtok {

class MappedFile {
 public:
  // `role` goes in front of the path in errors ("shard 2 of 3 "); may be empty.
  explicit MappedFile(const std::string& path, const std::string& role = "");
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const noexcept { return path_; }
  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  // Throws when the file on disk has become shorter than the mapping: touching the lost pages would be
  // SIGBUS.
  void check_size() const;
  void release_pages() const noexcept;  // they come back from the file when touched

 private:
  std::string path_;
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace trimtok
