// Key-value pairs (spec 1.2). Every type is checked here, so that readers of arrays never reinterpret bytes.
#include <bit>
#include <cinttypes>
#include <limits>
#include <set>
#include <type_traits>

#include "engine/gguf/quote.h"
#include "engine/gguf/shard.h"

namespace trimtok {
namespace {

enum ValueType : int32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
  kNumValueTypes
};

constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxStringBytes = uint64_t{64} << 20;
// The format would allow 2^30 and more. Vocabularies stay below 2^19, and elements are widened to 8 bytes.
constexpr uint64_t kMaxArrayElements = uint64_t{1} << 26;

template <typename T>
int64_t to_int(const Reader& reader, T value) {
  if constexpr (std::is_same_v<T, uint64_t>) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      reader.fail(ErrorCode::kFormat, "value is %" PRIu64 ", expected at most 2^63 - 1", value);
    }
  }
  return static_cast<int64_t>(value);
}

bool to_bool(const Reader& reader, uint8_t value) {
  if (value > 1) reader.fail(ErrorCode::kFormat, "bool value is %d, expected 0 or 1", value);
  return value != 0;
}

void check_elements(const Reader& reader, uint64_t n, uint64_t element_bytes) {
  if (n > kMaxArrayElements) {
    reader.fail(ErrorCode::kFormat, "array count is %" PRIu64 ", expected at most %" PRIu64, n,
                kMaxArrayElements);
  }
  if (n > reader.remaining() / element_bytes) {
    reader.fail(ErrorCode::kFormat,
                "array count is %" PRIu64 ", expected at most %" PRIu64
                ", which is what the rest of the file can hold",
                n, reader.remaining() / element_bytes);
  }
}

// Arrays of T widened to Wide by `convert`.
template <typename T, typename Wide, typename Convert>
MetaValue read_numbers(Reader& reader, uint64_t n, Convert convert) {
  check_elements(reader, n, sizeof(T));
  const std::byte* at = reader.take(n * sizeof(T), "array");
  std::vector<Wide> values;
  values.reserve(n);
  for (uint64_t i = 0; i < n; ++i) {
    T value;
    std::memcpy(&value, at + i * sizeof(T), sizeof(T));
    values.push_back(convert(value));
  }
  return MetaArray(std::move(values));
}

template <typename T>
MetaValue read_ints(Reader& reader, uint64_t n) {
  return read_numbers<T, int64_t>(reader, n, [&](T value) { return to_int(reader, value); });
}

template <typename T>
MetaValue read_floats(Reader& reader, uint64_t n) {
  return read_numbers<T, double>(reader, n, [](T value) { return static_cast<double>(value); });
}

MetaValue read_strings(Reader& reader, uint64_t n) {
  check_elements(reader, n, sizeof(uint64_t));
  std::vector<std::string> values;
  values.reserve(n);
  for (uint64_t i = 0; i < n; ++i) values.emplace_back(reader.text(kMaxStringBytes, "string element"));
  return MetaArray(std::move(values));
}

MetaValue read_array(Reader& reader, int32_t* element) {
  *element = reader.get<int32_t>("array element type");
  const auto n = reader.get<uint64_t>("array count");
  switch (*element) {
    case kU8:
      return read_ints<uint8_t>(reader, n);
    case kI8:
      return read_ints<int8_t>(reader, n);
    case kU16:
      return read_ints<uint16_t>(reader, n);
    case kI16:
      return read_ints<int16_t>(reader, n);
    case kU32:
      return read_ints<uint32_t>(reader, n);
    case kI32:
      return read_ints<int32_t>(reader, n);
    case kU64:
      return read_ints<uint64_t>(reader, n);
    case kI64:
      return read_ints<int64_t>(reader, n);
    case kF32:
      return read_floats<float>(reader, n);
    case kF64:
      return read_floats<double>(reader, n);
    case kBool:
      return read_numbers<uint8_t, bool>(reader, n, [&](uint8_t value) { return to_bool(reader, value); });
    case kString:
      return read_strings(reader, n);
    case kArray:
      reader.fail(ErrorCode::kFormat, "is an array of arrays, expected plain elements");
    default:
      break;
  }
  reader.fail(ErrorCode::kFormat, "array element type is %" PRId32 ", expected 0-8 or 10-12", *element);
}

MetaValue read_value(Reader& reader, StoredType* stored) {
  stored->type = reader.get<int32_t>("value type");
  switch (stored->type) {
    case kU8:
      return int64_t{reader.get<uint8_t>("value")};
    case kI8:
      return int64_t{reader.get<int8_t>("value")};
    case kU16:
      return int64_t{reader.get<uint16_t>("value")};
    case kI16:
      return int64_t{reader.get<int16_t>("value")};
    case kU32:
      return int64_t{reader.get<uint32_t>("value")};
    case kI32:
      return int64_t{reader.get<int32_t>("value")};
    case kU64:
      return to_int(reader, reader.get<uint64_t>("value"));
    case kI64:
      return reader.get<int64_t>("value");
    case kF32:
      return double{reader.get<float>("value")};
    case kF64:
      return reader.get<double>("value");
    case kBool:
      return to_bool(reader, reader.get<uint8_t>("value"));
    case kString:
      return std::string(reader.text(kMaxStringBytes, "string"));
    case kArray:
      return read_array(reader, &stored->element);
    default:
      break;
  }
  reader.fail(ErrorCode::kFormat, "value type is %" PRId32 ", expected 0-12", stored->type);
}

std::string_view read_key(Reader& reader, uint64_t i) {
  reader.enter(format("key number %" PRIu64, i));
  const std::string_view key = reader.text(kMaxKeyBytes, "key");
  if (key.empty()) reader.fail(ErrorCode::kFormat, "the key is empty, expected a name");
  for (const char c : key) {
    if (c < 0x20 || c > 0x7e) {
      reader.fail(ErrorCode::kFormat, "the key is %s, expected printable ASCII", quote_text(key).c_str());
    }
  }
  return key;
}

}  // namespace

void read_metadata(Reader& reader, uint64_t n_keys, Shard& shard) {
  shard.metadata.reserve(n_keys);
  shard.stored_types.reserve(n_keys);
  for (uint64_t i = 0; i < n_keys; ++i) {
    std::string key(read_key(reader, i));
    reader.enter("key " + quote_text(key));
    if (!shard.key_index.emplace(key, i).second) {
      reader.fail(ErrorCode::kFormat, "the key appears twice, expected once");
    }
    StoredType stored;
    MetaValue value = read_value(reader, &stored);
    if (key == "general.alignment" && stored.type != kU32) {
      reader.fail(ErrorCode::kFormat, "is %s, expected a uint32", describe(value).c_str());
    }
    shard.metadata.emplace_back(std::move(key), std::move(value));
    shard.stored_types.push_back(stored);
  }
}

std::string describe(const MetaValue& value) {
  struct Visitor {
    std::string operator()(int64_t v) const { return format("the integer %" PRId64, v); }
    std::string operator()(double v) const { return format("the float %g", v); }
    std::string operator()(bool v) const { return v ? "the bool true" : "the bool false"; }
    std::string operator()(const std::string& v) const { return "the string " + quote_text(v); }
    std::string operator()(const MetaArray& v) const {
      static constexpr const char* kElements[] = {"integers", "floats", "bools", "strings"};
      const size_t n = std::visit([](const auto& elements) { return elements.size(); }, v);
      return format("an array of %zu %s", n, kElements[v.index()]);
    }
  };
  return std::visit(Visitor{}, value);
}

}  // namespace trimtok
