#include "engine/gguf/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <system_error>

#include "engine/core/error.h"
#include "engine/gguf/quote.h"

namespace trimtok {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
static_assert(MappedFile::kPiece % kHugePage == 0);

std::string reason(int error) {
  return std::generic_category().message(error);
}

size_t whole_huge_pages(size_t bytes) {
  return (bytes + kHugePage - 1) / kHugePage * kHugePage;
}

// Addresses of whole huge pages that nothing else uses; nullptr when there are none. Reserving costs no
// memory.
std::byte* reserve(size_t bytes) {
  void* all = ::mmap(nullptr, bytes + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED) return nullptr;
  auto* begin = static_cast<std::byte*>(all);
  const size_t before = whole_huge_pages(reinterpret_cast<uintptr_t>(all)) - reinterpret_cast<uintptr_t>(all);
  if (before > 0) ::munmap(begin, before);
  if (before < kHugePage) ::munmap(begin + before + bytes, kHugePage - before);
  return begin + before;
}

// A private copy of a piece of a file, in huge pages where the system has some.
class Copy {
 public:
  explicit Copy(size_t bytes) : bytes_(whole_huge_pages(bytes)), data_(reserve(bytes_)) {
    if (data_ != nullptr && ::mprotect(data_, bytes_, PROT_READ | PROT_WRITE) != 0) {
      ::munmap(data_, bytes_);
      data_ = nullptr;
    }
#if defined(MADV_HUGEPAGE)
    if (data_ != nullptr) ::madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
  }
  ~Copy() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;

  std::byte* data() const {
    return data_;
  }  // null: out of memory
  // An empty string, or why not.
  std::string fill(int fd, size_t begin, size_t n) {
    for (size_t done = 0; done < n;) {
      const ssize_t got = ::pread(fd, data_ + done, n - done, static_cast<off_t>(begin + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return reason(errno);
      if (got == 0) return "it has become shorter while it was open";
      done += static_cast<size_t>(got);
    }
    return "";
  }
  bool move_to(std::byte* address) {
#if defined(__linux__)
    if (::mprotect(data_, bytes_, PROT_READ) != 0) return false;
    // One step for everybody who reads there: the kernel exchanges the pages under the lock that faults take.
    if (::mremap(data_, bytes_, bytes_, MREMAP_MAYMOVE | MREMAP_FIXED, address) == MAP_FAILED) return false;
    data_ = nullptr;
    return true;
#else
    return address == nullptr;  // never
#endif
  }

 private:
  size_t bytes_;
  std::byte* data_;
};

}  // namespace

MappedFile::MappedFile(const std::string& path, const std::string& role) : path_(path) {
  const std::string name = role + quote_path(path);
  if (path.find('\0') != std::string::npos) {
    fail(ErrorCode::kInvalidArgument, "[gguf] the path %s holds a NUL byte", name.c_str());
  }
  // O_NONBLOCK: opening a FIFO must be an error, not a wait for its writer.
  fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) {
    const int error = errno;
    fail(ErrorCode::kIo, "[gguf] cannot open %s: %s", name.c_str(), reason(error).c_str());
  }
  struct stat info = {};
  std::string problem;
  if (::fstat(fd_, &info) != 0) {
    problem = reason(errno);
  } else if (!S_ISREG(info.st_mode)) {
    problem = S_ISDIR(info.st_mode) ? "it is a folder, expected a file" : "it is not a regular file";
  } else if (static_cast<uint64_t>(info.st_size) > std::numeric_limits<size_t>::max() / 2) {
    problem = "it is too large for this machine's address space";
  } else if (info.st_size > 0) {
    size_ = static_cast<size_t>(info.st_size);
    reserved_ = whole_huge_pages(size_);
    std::byte* place = reserve(reserved_);
    if (place == nullptr) {
      problem = reason(ENOMEM);
    } else if (::mmap(place, size_, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd_, 0) == MAP_FAILED) {
      problem = reason(errno);
      ::munmap(place, reserved_);
    } else {
      data_ = place;
    }
  }
  if (!problem.empty()) {
    ::close(fd_);
    fail(ErrorCode::kIo, "[gguf] cannot read %s: %s", name.c_str(), problem.c_str());
  }
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), reserved_);
  ::close(fd_);
}

void MappedFile::release_pages() const noexcept {
  if (data_ == nullptr || replaced_) return;
  ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
}

void MappedFile::replace(size_t begin) const {
  const std::string name = quote_path(path_);
#if !defined(__linux__)
  fail(ErrorCode::kUnsupported, "[gguf] %s can only stay mapped on this system, from byte %zu on",
       name.c_str(), begin);
#endif
  const size_t n = std::min(kPiece, size_ - begin);
  Copy copy(n);
  if (copy.data() == nullptr) {
    fail(ErrorCode::kOutOfMemory, "[gguf] no memory for %zu bytes of %s", n, name.c_str());
  }
  if (const std::string problem = copy.fill(fd_, begin, n); !problem.empty()) {
    fail(ErrorCode::kIo, "[gguf] cannot read %s: %s", name.c_str(), problem.c_str());
  }
  replaced_ = true;
  std::byte* place = const_cast<std::byte*>(data_) + begin;
  if (!copy.move_to(place)) {
    const int error = errno;
    ::mmap(place, n, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd_, static_cast<off_t>(begin));
    fail(ErrorCode::kOutOfMemory, "[gguf] cannot put memory in the place of %s: %s", name.c_str(),
         reason(error).c_str());
  }
}

void MappedFile::check_size() const {
  struct stat info = {};
  if (::fstat(fd_, &info) != 0 || static_cast<uint64_t>(info.st_size) < size_) {
    fail(ErrorCode::kIo,
         "[gguf] %s shrank from %zu to %lld bytes while it was open; is it still being written?",
         quote_path(path_).c_str(), size_, static_cast<long long>(info.st_size));
  }
}

}  // namespace trimtok
