// Typed access to metadata: a wrong type or range is found here, with the key's name.
#include <cinttypes>

#include "engine/core/error.h"
#include "engine/gguf/file.h"
#include "engine/gguf/quote.h"
#include "engine/gguf/shard.h"

namespace trimtok {
namespace {

// "expected" completes the sentence: "an integer from 1 to 8".
[[noreturn]] void bad_key(const GgufFile& file, std::string_view key, const MetaValue* value,
                          const std::string& expected) {
  const std::string is = value == nullptr ? "is missing" : "is " + describe(*value);
  fail(ErrorCode::kFormat, "[gguf] %s: key %s %s, expected %s", quote_path(file.path()).c_str(),
       quote_text(key).c_str(), is.c_str(), expected.c_str());
}

int64_t checked_int(const GgufFile& file, std::string_view key, const MetaValue* value, int64_t min,
                    int64_t max) {
  const auto* number = value == nullptr ? nullptr : std::get_if<int64_t>(value);
  if (number == nullptr || *number < min || *number > max) {
    bad_key(file, key, value, format("an integer from %" PRId64 " to %" PRId64, min, max));
  }
  return *number;
}

double checked_float(const GgufFile& file, std::string_view key, const MetaValue* value, double min,
                     double max) {
  double number = 0.0;
  bool ok = false;
  if (value != nullptr) {
    if (const auto* real = std::get_if<double>(value)) {
      number = *real;
      ok = true;
    } else if (const auto* integer = std::get_if<int64_t>(value)) {
      number = static_cast<double>(*integer);
      ok = true;
    }
  }
  // Written so that NaN fails.
  if (!ok || !(number >= min && number <= max))
    bad_key(file, key, value, format("a number from %g to %g", min, max));
  return number;
}

// Elements of an array key, nullptr when the key is absent.
template <typename T>
const std::vector<T>* find_array(const GgufFile& file, std::string_view key, const char* expected) {
  const MetaValue* value = file.find(key);
  if (value == nullptr) return nullptr;
  const auto* array = std::get_if<MetaArray>(value);
  const auto* elements = array == nullptr ? nullptr : std::get_if<std::vector<T>>(array);
  if (elements == nullptr) bad_key(file, key, value, expected);
  return elements;
}

}  // namespace

int64_t GgufFile::get_int(std::string_view key, int64_t min, int64_t max) const {
  return checked_int(*this, key, find(key), min, max);
}

int64_t GgufFile::get_int(std::string_view key, int64_t min, int64_t max, int64_t fallback) const {
  const MetaValue* value = find(key);
  return value == nullptr ? fallback : checked_int(*this, key, value, min, max);
}

double GgufFile::get_float(std::string_view key, double min, double max) const {
  return checked_float(*this, key, find(key), min, max);
}

double GgufFile::get_float(std::string_view key, double min, double max, double fallback) const {
  const MetaValue* value = find(key);
  return value == nullptr ? fallback : checked_float(*this, key, value, min, max);
}

bool GgufFile::get_bool(std::string_view key, bool fallback) const {
  const MetaValue* value = find(key);
  if (value == nullptr) return fallback;
  const auto* flag = std::get_if<bool>(value);
  if (flag == nullptr) bad_key(*this, key, value, "a bool");
  return *flag;
}

const std::string& GgufFile::get_string(std::string_view key) const {
  const MetaValue* value = find(key);
  const auto* text = value == nullptr ? nullptr : std::get_if<std::string>(value);
  if (text == nullptr) bad_key(*this, key, value, "a string");
  return *text;
}

std::string GgufFile::get_string(std::string_view key, std::string_view fallback) const {
  return has(key) ? get_string(key) : std::string(fallback);
}

const std::vector<int64_t>* GgufFile::find_ints(std::string_view key) const {
  return find_array<int64_t>(*this, key, "an array of integers");
}

std::optional<std::vector<double>> GgufFile::find_floats(std::string_view key) const {
  const MetaValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* array = std::get_if<MetaArray>(value)) {
    if (const auto* ints = std::get_if<std::vector<int64_t>>(array)) {
      return std::vector<double>(ints->begin(), ints->end());
    }
  }
  return *find_array<double>(*this, key, "an array of numbers");
}

const std::vector<std::string>* GgufFile::find_strings(std::string_view key) const {
  return find_array<std::string>(*this, key, "an array of strings");
}

std::vector<int64_t> GgufFile::get_per_layer(std::string_view key, int64_t n, int64_t min, int64_t max,
                                             std::optional<int64_t> fallback) const {
  if (n < 0) fail(ErrorCode::kInternal, "[gguf] get_per_layer for %" PRId64 " layers", n);
  const auto size = static_cast<size_t>(n);
  const MetaValue* value = find(key);
  if (value == nullptr && fallback.has_value()) return std::vector<int64_t>(size, *fallback);
  const auto* array = value == nullptr ? nullptr : std::get_if<MetaArray>(value);
  if (array == nullptr) return std::vector<int64_t>(size, checked_int(*this, key, value, min, max));

  std::vector<int64_t> result;
  if (const auto* ints = std::get_if<std::vector<int64_t>>(array)) {
    result = *ints;
  } else if (const auto* flags = std::get_if<std::vector<bool>>(array)) {
    result.assign(flags->begin(), flags->end());
  } else {
    bad_key(*this, key, value, "an integer or an array of integers");
  }
  if (result.size() != size)
    bad_key(*this, key, value, format("one integer or %" PRId64 ", one per layer", n));
  for (size_t i = 0; i < size; ++i) {
    if (result[i] < min || result[i] > max) {
      fail(ErrorCode::kFormat,
           "[gguf] %s: key %s holds %" PRId64 " for layer %zu, expected %" PRId64 " to %" PRId64,
           quote_path(path_).c_str(), quote_text(key).c_str(), result[i], i, min, max);
    }
  }
  return result;
}

}  // namespace trimtok
