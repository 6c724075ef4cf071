#include "engine/text/unicode.h"

#include <algorithm>
#include <iterator>

namespace trimtok {

Utf8Char next_char(std::string_view text, size_t i) {
  const auto lead = static_cast<uint8_t>(text[i]);
  if (lead < 0x80) return {lead, 1, Utf8Status::kValid};
  // Bounds of the second byte exclude overlong forms, surrogates and values above U+10FFFF (Unicode table
  // 3-7).
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  uint32_t length = 0;
  uint32_t code_point = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
    code_point = lead & 0x1Fu;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    code_point = lead & 0x0Fu;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    code_point = lead & 0x07u;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {kReplacementChar, 1, Utf8Status::kInvalid};
  }
  for (uint32_t k = 1; k < length; ++k) {
    if (i + k >= text.size()) return {kReplacementChar, k, Utf8Status::kIncomplete};
    const auto byte = static_cast<uint8_t>(text[i + k]);
    if (byte < low || byte > high) return {kReplacementChar, k, Utf8Status::kInvalid};
    code_point = (code_point << 6) | (byte & 0x3Fu);
    low = 0x80;
    high = 0xBF;
  }
  return {code_point, length, Utf8Status::kValid};
}

void append_utf8(std::string& out, uint32_t code_point) {
  const auto put = [&out](uint32_t byte) { out.push_back(static_cast<char>(static_cast<uint8_t>(byte))); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

bool is_valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = next_char(text, i);
    if (c.status != Utf8Status::kValid) return false;
    i += c.bytes;
  }
  return true;
}

std::string to_valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = next_char(text, i);
    append_utf8(out, c.code_point);
    i += c.bytes;
  }
  return out;
}

CharClass char_class(uint32_t code_point) {
  if (code_point < kNumLowClasses) return static_cast<CharClass>(kLowClasses[code_point]);
  // The last range whose start is <= code_point; the first range starts at 0.
  const uint32_t key = (code_point << 8) | 0xFFu;
  const uint32_t* it = std::upper_bound(std::begin(kClassRanges), std::end(kClassRanges), key);
  return static_cast<CharClass>(*(it - 1) & 0xFFu);
}

}  // namespace trimtok
