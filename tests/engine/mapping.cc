// A mapped file becomes memory while a thread reads it.
#include "engine/gguf/mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "engine/core/error.h"

namespace trimtok::test {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kBytes = 2 * MappedFile::kPiece + 3 * kPage + 17;  // two whole pieces and a ragged one

uint64_t expected_word(size_t i) {
  return i * 0x9e3779b97f4a7c15ull;
}

std::string write_file() {
  std::string path = std::string(P_tmpdir) + "/trimtok_mapping_XXXXXX";
  const int fd = mkstemp(path.data());
  if (fd < 0) return "";
  std::vector<uint64_t> words(kBytes / sizeof(uint64_t) + 1);
  for (size_t i = 0; i < words.size(); ++i) words[i] = expected_word(i);
  const bool written = ::write(fd, words.data(), kBytes) == static_cast<ssize_t>(kBytes);
  ::close(fd);
  return written ? path : "";
}

// The first word of every page: enough to touch all of them.
size_t wrong_pages(std::span<const std::byte> bytes) {
  size_t wrong = 0;
  for (size_t at = 0; at + sizeof(uint64_t) <= bytes.size(); at += kPage) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    wrong += word != expected_word(at / sizeof word);
  }
  return wrong;
}

bool is_mapped(const std::string& path) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(path) != std::string::npos) return true;
  }
  return false;
}

template <typename Call>
ErrorCode code_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return ErrorCode::kInternal;
}

void check_replacing(const std::string& path) {
  const MappedFile file(path);
  TT_EXPECT(file.n_pieces() == 3);
  TT_EXPECT(is_mapped(path));
  std::atomic<bool> stop = false;
  std::atomic<size_t> wrong = 0, rounds = 0;
  std::thread reader([&] {
    while (!stop) {
      wrong += wrong_pages(file.bytes());
      ++rounds;
    }
  });
  while (rounds == 0) std::this_thread::yield();
  for (size_t i = 0; i < file.n_pieces(); ++i) file.replace(i * MappedFile::kPiece);
  const size_t before = rounds;
  while (rounds < before + 2) std::this_thread::yield();
  stop = true;
  reader.join();
  TT_EXPECT(wrong == 0);
  TT_EXPECT(!is_mapped(path));

  file.release_pages();  // must not throw away the only copy
  TT_EXPECT(wrong_pages(file.bytes()) == 0);
  TT_EXPECT(truncate(path.c_str(), 1) == 0);
  TT_EXPECT(wrong_pages(file.bytes()) == 0);
}

// What cannot be read stays mapped, and is not half replaced.
void check_failure(const std::string& path) {
  const MappedFile file(path);
  TT_EXPECT(truncate(path.c_str(), MappedFile::kPiece + kPage) == 0);
  TT_EXPECT(code_of([&] { file.replace(MappedFile::kPiece); }) == ErrorCode::kIo);
  TT_EXPECT(is_mapped(path));
  TT_EXPECT(wrong_pages(file.bytes().first(MappedFile::kPiece + kPage)) == 0);
  file.replace(0);
  TT_EXPECT(wrong_pages(file.bytes().first(MappedFile::kPiece + kPage)) == 0);
}

}  // namespace

void check_mapping() {
#if defined(__linux__)
  const std::string path = write_file();
  TT_EXPECT(!path.empty());
  if (path.empty()) return;
  check_replacing(path);
  ::unlink(path.c_str());
  const std::string other = write_file();
  TT_EXPECT(!other.empty());
  if (other.empty()) return;
  check_failure(other);
  ::unlink(other.c_str());
#else
  std::puts("mapping: SKIPPED, files are replaced by memory on Linux only");
#endif
}

}  // namespace trimtok::test
