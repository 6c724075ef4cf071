// Cuts text into the pieces inside which byte-level BPE merges (spec 10.3).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/text/unicode.h"

namespace trimtok {

// Decoded text [begin, end) as one regex sees it: nothing outside exists for it.
struct CharSpan {
  const uint32_t* code_points = nullptr;
  const CharClass* classes = nullptr;
  uint32_t begin = 0;
  uint32_t end = 0;
};

// One regex, written out by hand: the end of its match that starts at i, or i when there is none.
using PieceMatcher = uint32_t (*)(const CharSpan& text, uint32_t i);

struct PreTokenizer {
  // Applied in order, each to every piece the one before it left: matches and the gaps between them are
  // pieces.
  std::span<const PieceMatcher> stages;
  bool ignore_merges = false;  // a piece that is a token as a whole is emitted without merging
  bool add_bos = false;        // unless tokenizer.ggml.add_bos_token says otherwise
};

// By the value of tokenizer.ggml.pre; nullptr for a name that is not known.
const PreTokenizer* find_pre_tokenizer(std::string_view name);

// The pieces in order; together they are `text`, which must be valid UTF-8 shorter than 4 GiB.
std::vector<std::string_view> split_pieces(const PreTokenizer& pre, std::string_view text);

}  // namespace trimtok
