// A whole file mapped read-only, which can be replaced by memory while others read it.
#pragma once

#include <atomic>
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

  // Puts a copy in memory of huge pages in the place of up to kPiece bytes from `begin` on, a multiple of
  // kPiece, at the same address: who reads there meanwhile sees the same bytes. Small pages cost decoding up
  // to a third of its speed, most of all in virtual machines. Throws Error(kIo | kOutOfMemory |
  // kUnsupported); the mapping is as it was then.
  void replace(size_t begin) const;
  static constexpr size_t kPiece = size_t{64} << 20;
  size_t n_pieces() const noexcept { return (size_ + kPiece - 1) / kPiece; }

 private:
  std::string path_;
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;                             // of the file
  size_t reserved_ = 0;                         // of the addresses from data_ on: whole huge pages
  mutable std::atomic<bool> replaced_ = false;  // a part of it: nothing may be given back to the file
};

}  // namespace trimtok
