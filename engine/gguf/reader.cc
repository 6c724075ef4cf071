#include "engine/gguf/reader.h"

#include <bit>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>

#include "engine/gguf/quote.h"

namespace trimtok {

static_assert(std::endian::native == std::endian::little,
              "GGUF fields and weights are used as they lie in the file");

Reader::Reader(std::span<const std::byte> bytes, std::string_view path)
    : bytes_(bytes), file_(quote_path(path)), item_("header") {}

const std::byte* Reader::take(uint64_t n, const char* field) {
  if (n > remaining()) {
    fail(ErrorCode::kFormat,
         "%s needs %" PRIu64 " bytes at byte %" PRIu64 ", but the file ends after %" PRIu64
         " more; it is truncated or damaged",
         field, n, offset_, remaining());
  }
  const std::byte* at = bytes_.data() + offset_;
  offset_ += n;
  return at;
}

std::string_view Reader::text(uint64_t max_bytes, const char* field) {
  const auto n = get<uint64_t>(field);
  if (n > max_bytes) {
    fail(ErrorCode::kFormat, "%s length is %" PRIu64 ", expected at most %" PRIu64, field, n, max_bytes);
  }
  return {reinterpret_cast<const char*>(take(n, field)), n};
}

void Reader::fail(ErrorCode code, const char* format, ...) const {
  char message[1024];
  std::va_list args;
  va_start(args, format);
  std::vsnprintf(message, sizeof message, format, args);
  va_end(args);
  trimtok::fail(code, "[gguf] %s: %s: %s", file_.c_str(), item_.c_str(), message);
}

}  // namespace trimtok
