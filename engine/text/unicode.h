// UTF-8 and character classes: what tokenizers need of Unicode.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/text/unicode_tables.h"

namespace trimtok {

inline constexpr uint32_t kReplacementChar = 0xFFFD;

enum class Utf8Status : uint8_t { kValid, kInvalid, kIncomplete };

struct Utf8Char {
  uint32_t code_point = kReplacementChar;
  uint32_t bytes =
      1;  // kInvalid, kIncomplete: the maximal subpart, which one U+FFFD replaces (Unicode 3.9, D93b)
  Utf8Status status = Utf8Status::kInvalid;  // kIncomplete: the text ends inside a so far valid character
};

// The character that starts at text[i]; i < text.size().
Utf8Char next_char(std::string_view text, size_t i);
void append_utf8(std::string& out, uint32_t code_point);
bool is_valid_utf8(std::string_view text);
// Every invalid part becomes U+FFFD, as in Python's bytes.decode("utf-8", "replace").
std::string to_valid_utf8(std::string_view text);

CharClass char_class(uint32_t code_point);

// Sets of classes, one bit per CharClass.
using ClassSet = uint32_t;
constexpr ClassSet class_bit(CharClass c) {
  return ClassSet{1} << static_cast<uint32_t>(c);
}
constexpr bool contains(ClassSet set, CharClass c) {
  return ((set >> static_cast<uint32_t>(c)) & 1u) != 0;
}

}  // namespace trimtok
