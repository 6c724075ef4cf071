// A cursor over the header of a hostile file: nothing is read before its length was compared with what is
// left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "engine/core/error.h"

namespace trimtok {

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string_view path);

  uint64_t offset() const noexcept { return offset_; }
  uint64_t remaining() const noexcept { return bytes_.size() - offset_; }
  // What the next reads belong to ("key 'general.name'"), for errors.
  void enter(std::string item) { item_ = std::move(item); }

  const std::byte* take(uint64_t n, const char* field);
  template <typename T>
  T get(const char* field) {
    T value;
    std::memcpy(&value, take(sizeof(T), field), sizeof(T));
    return value;
  }
  // u64 length, then that many bytes.
  std::string_view text(uint64_t max_bytes, const char* field);

  // "[gguf] 'file': item: message"
  [[noreturn, gnu::format(printf, 3, 4)]] void fail(ErrorCode code, const char* format, ...) const;

 private:
  std::span<const std::byte> bytes_;
  uint64_t offset_ = 0;
  std::string file_;
  std::string item_;
};

}  // namespace trimtok
