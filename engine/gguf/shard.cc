#include "engine/gguf/shard.h"

#include <cinttypes>

#include "engine/gguf/quote.h"

namespace trimtok {
namespace {

constexpr uint64_t kMaxKeys = 100'000;
constexpr uint64_t kMaxTensors = 1'000'000;
// The smallest entries that the format allows: a one-byte name and a one-byte value; no dimensions.
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 4 + 8;

void check_magic(Reader& reader) {
  constexpr std::string_view kLfsPointer = "version https://git-lfs";
  const uint64_t n = reader.remaining();
  const std::string_view head(reinterpret_cast<const char*>(reader.take(n < 24 ? n : 24, "header")),
                              n < 24 ? n : 24);
  if (head.starts_with(kLfsPointer)) {
    reader.fail(ErrorCode::kFormat,
                "the file is a Git LFS pointer, expected a GGUF file; fetch the real file first");
  }
  if (!head.starts_with("GGUF")) {
    reader.fail(ErrorCode::kFormat, "magic is %s, expected 'GGUF'", quote_text(head.substr(0, 4)).c_str());
  }
}

void check_version(const Reader& reader, uint32_t version) {
  if (version != 0 && (version & 0xffffu) == 0) {  // spec 1.6: the only sign of the other byte order
    reader.fail(ErrorCode::kUnsupported,
                "version reads as 0x%08" PRIx32
                ": the file is big-endian, expected little-endian; convert its byte order",
                version);
  }
  if (version == 1) {
    reader.fail(ErrorCode::kUnsupported,
                "version is 1, expected 2 or 3; convert the model again with current tools");
  }
  if (version == 0 || version > 3) {
    reader.fail(version == 0 ? ErrorCode::kFormat : ErrorCode::kUnsupported,
                "version is %" PRIu32 ", expected 2 or 3", version);
  }
}

void check_count(const Reader& reader, const char* what, uint64_t n, uint64_t cap, uint64_t min_bytes) {
  if (n > cap) {
    reader.fail(ErrorCode::kFormat, "%s count is %" PRIu64 ", expected at most %" PRIu64, what, n, cap);
  }
  if (n > reader.remaining() / min_bytes) {
    reader.fail(ErrorCode::kFormat,
                "%s count is %" PRIu64 ", expected at most %" PRIu64
                ", which is what the rest of the file can hold",
                what, n, reader.remaining() / min_bytes);
  }
}

}  // namespace

Shard parse_shard(std::span<const std::byte> bytes, const std::string& path) {
  Reader start(bytes, path);
  check_magic(start);

  Shard shard;
  Reader reader(bytes, path);
  reader.take(4, "magic");
  shard.version = reader.get<uint32_t>("version");
  check_version(reader, shard.version);
  const auto n_tensors = reader.get<uint64_t>("tensor count");
  const auto n_keys = reader.get<uint64_t>("key count");
  check_count(reader, "tensor", n_tensors, kMaxTensors, kMinTensorBytes);
  check_count(reader, "key", n_keys, kMaxKeys, kMinKeyBytes);
  read_metadata(reader, n_keys, shard);
  read_tensors(reader, n_tensors, bytes, shard);
  return shard;
}

}  // namespace trimtok
