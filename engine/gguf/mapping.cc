#include "engine/gguf/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <limits>
#include <system_error>

#include "engine/core/error.h"
#include "engine/gguf/quote.h"

namespace trimtok {
namespace {

std::string reason(int error) {
  return std::generic_category().message(error);
}

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
    void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd_, 0);
    if (data == MAP_FAILED) {
      problem = reason(errno);
    } else {
      data_ = static_cast<const std::byte*>(data);
    }
  }
  if (!problem.empty()) {
    ::close(fd_);
    fail(ErrorCode::kIo, "[gguf] cannot read %s: %s", name.c_str(), problem.c_str());
  }
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  ::close(fd_);
}

void MappedFile::release_pages() const noexcept {
  if (data_ != nullptr) ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
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
