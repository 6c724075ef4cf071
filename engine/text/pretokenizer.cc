#include "engine/text/pretokenizer.h"

#include <algorithm>
#include <utility>

namespace trimtok {
namespace {

constexpr ClassSet kLower = class_bit(CharClass::kLower);
constexpr ClassSet kCaseless = class_bit(CharClass::kModifier) | class_bit(CharClass::kOtherLetter);
constexpr ClassSet kUpperOrTitle = class_bit(CharClass::kUpper) | class_bit(CharClass::kTitle);
constexpr ClassSet kLetter = kLower | kCaseless | kUpperOrTitle;
constexpr ClassSet kMark = class_bit(CharClass::kMark);
constexpr ClassSet kNumber = class_bit(CharClass::kNumber);
constexpr ClassSet kPunctuation = class_bit(CharClass::kPunctuation);
constexpr ClassSet kSymbol = class_bit(CharClass::kSymbol);
constexpr ClassSet kSpace = class_bit(CharClass::kSpace);

// Code point ranges of a bracket expression, ascending.
struct Range {
  uint32_t first;
  uint32_t last;
};

bool in_ranges(std::span<const Range> ranges, uint32_t c) {
  const auto it = std::upper_bound(ranges.begin(), ranges.end(), c,
                                   [](uint32_t value, const Range& r) { return value < r.first; });
  return it != ranges.begin() && c <= (it - 1)->last;
}

bool is(const CharSpan& t, uint32_t i, ClassSet set) {
  return i < t.end && contains(set, t.classes[i]);
}
bool at(const CharSpan& t, uint32_t i, uint32_t c) {
  return i < t.end && t.code_points[i] == c;
}
bool newline(const CharSpan& t, uint32_t i) {
  return at(t, i, '\r') || at(t, i, '\n');
}

// The end of the longest run from i of characters for which member(i) holds.
template <typename Member>
uint32_t run_while(const CharSpan& t, uint32_t i, Member member) {
  while (i < t.end && member(i)) ++i;
  return i;
}
uint32_t run(const CharSpan& t, uint32_t i, ClassSet set) {
  return run_while(t, i, [&](uint32_t k) { return contains(set, t.classes[k]); });
}
uint32_t newlines(const CharSpan& t, uint32_t i) {
  return run_while(t, i, [&](uint32_t k) { return newline(t, k); });
}
uint32_t run_in(const CharSpan& t, uint32_t i, std::span<const Range> ranges) {
  return run_while(t, i, [&](uint32_t k) { return in_ranges(ranges, t.code_points[k]); });
}

// 's 't 'm 'd 're 've 'll; any_case: also written with ASCII capitals.
uint32_t contraction(const CharSpan& t, uint32_t i, bool any_case) {
  if (!at(t, i, '\'')) return i;
  const auto letter = [&](uint32_t k) -> uint32_t {
    if (k >= t.end) return 0;
    const uint32_t c = t.code_points[k];
    return any_case && c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
  };
  const uint32_t a = letter(i + 1);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
  const uint32_t b = letter(i + 2);
  if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return i + 3;
  return i;
}

// " ?[set]+"; the set never contains the space.
uint32_t spaced_run(const CharSpan& t, uint32_t i, ClassSet set) {
  const uint32_t start = at(t, i, ' ') ? i + 1 : i;
  const uint32_t end = run(t, start, set);
  return end > start ? end : i;
}

// "[^\r\n..]?[body]+" where `excluded` is what the bracket excludes besides newlines.
uint32_t prefixed_run(const CharSpan& t, uint32_t i, ClassSet excluded, ClassSet body) {
  if (is(t, i, ~excluded) && !newline(t, i)) {
    const uint32_t end = run(t, i + 1, body);
    if (end > i + 1) return end;
  }
  return run(t, i, body);
}

// "\s?X+": with the optional space, or without it where X itself can match that space.
template <typename Run>
uint32_t optional_space_then(const CharSpan& t, uint32_t i, Run run_of) {
  if (is(t, i, kSpace)) {
    const uint32_t end = run_of(i + 1);
    if (end > i + 1) return end;
  }
  return run_of(i);
}

// "\p{N}{1,most}"
uint32_t numbers(const CharSpan& t, uint32_t i, uint32_t most) {
  return run_while(t, i, [&](uint32_t k) { return k - i < most && contains(kNumber, t.classes[k]); });
}

// "\s*[\r\n]+": backtracks to the last newline of the run of white space.
uint32_t through_last_newline(const CharSpan& t, uint32_t i) {
  uint32_t end = run(t, i, kSpace);
  while (end > i && !newline(t, end - 1)) --end;
  return end;
}

// "\s+(?!\S)": leaves the last white space to what follows, unless the text ends here.
uint32_t space_before_end(const CharSpan& t, uint32_t i) {
  const uint32_t end = run(t, i, kSpace);
  return end == t.end || end == i ? end : end - 1;
}

// "\s*[\r\n]+|\s+(?!\S)|\s+"
uint32_t white_space(const CharSpan& t, uint32_t i) {
  uint32_t end = through_last_newline(t, i);
  if (end == i) end = space_before_end(t, i);
  return end == i ? run(t, i, kSpace) : end;
}

// G: "'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
uint32_t match_gpt2(const CharSpan& t, uint32_t i) {
  uint32_t end = contraction(t, i, false);
  if (end == i) end = spaced_run(t, i, kLetter);
  if (end == i) end = spaced_run(t, i, kNumber);
  if (end == i) end = spaced_run(t, i, ~(kSpace | kLetter | kNumber));
  return end == i ? space_before_end(t, i) : end;
}

// C | [^\r\n\p{L}\p{N}]?[word]+ | \p{N}{1,most} | " ?[^\s\p{N} word]+[\r\n]*" | white space
uint32_t match_modern(const CharSpan& t, uint32_t i, ClassSet word, uint32_t most_numbers) {
  uint32_t end = contraction(t, i, true);
  if (end == i) end = prefixed_run(t, i, kLetter | kNumber, word);
  if (end == i) end = numbers(t, i, most_numbers);
  if (end != i) return end;
  end = spaced_run(t, i, ~(kSpace | word | kNumber));
  return end == i ? white_space(t, i) : newlines(t, end);
}
uint32_t match_llama3(const CharSpan& t, uint32_t i) {
  return match_modern(t, i, kLetter, 3);
}
uint32_t match_qwen2(const CharSpan& t, uint32_t i) {
  return match_modern(t, i, kLetter, 1);
}
uint32_t match_qwen35(const CharSpan& t, uint32_t i) {
  return match_modern(t, i, kLetter | kMark, 1);
}

constexpr ClassSet kUpperSide = kUpperOrTitle | kCaseless | kMark;  // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
constexpr ClassSet kLowerSide = kLower | kCaseless | kMark;         // [\p{Ll}\p{Lm}\p{Lo}\p{M}]

// "[upper]*[lower]+": the greedy first part gives back just what the second needs.
uint32_t upper_then_lower(const CharSpan& t, uint32_t i) {
  uint32_t split = run(t, i, kUpperSide);
  if (!is(t, split, kLowerSide)) {
    while (split > i && !is(t, split - 1, kLowerSide)) --split;
    if (split == i) return i;
    --split;
  }
  return run(t, split, kLowerSide);
}

// "[upper]+[lower]*"
uint32_t upper_maybe_lower(const CharSpan& t, uint32_t i) {
  const uint32_t split = run(t, i, kUpperSide);
  return split == i ? i : run(t, split, kLowerSide);
}

// "[^\r\n\p{L}\p{N}]?" before one of the two word forms.
template <typename Word>
uint32_t prefixed_word(const CharSpan& t, uint32_t i, Word word) {
  if (is(t, i, ~(kLetter | kNumber)) && !newline(t, i)) {
    const uint32_t end = word(t, i + 1);
    if (end > i + 1) return end;
  }
  return word(t, i);
}

uint32_t match_cased(const CharSpan& t, uint32_t i, bool contractions, uint32_t most_numbers) {
  uint32_t end = prefixed_word(t, i, upper_then_lower);
  if (end == i) end = prefixed_word(t, i, upper_maybe_lower);
  if (end != i) return contractions ? contraction(t, end, true) : end;
  end = numbers(t, i, most_numbers);
  if (end != i) return end;
  end = spaced_run(t, i, ~(kSpace | kLetter | kNumber));
  if (end == i) return white_space(t, i);
  return run_while(t, end, [&](uint32_t k) { return newline(t, k) || at(t, k, '/'); });
}
uint32_t match_tekken(const CharSpan& t, uint32_t i) {
  return match_cased(t, i, false, 1);
}
uint32_t match_gpt4o(const CharSpan& t, uint32_t i) {
  return match_cased(t, i, true, 3);
}

uint32_t match_newline(const CharSpan& t, uint32_t i) {
  return newline(t, i) ? i + 1 : i;
}
uint32_t match_number(const CharSpan& t, uint32_t i) {
  return numbers(t, i, 1);
}
uint32_t match_numbers(const CharSpan& t, uint32_t i) {
  return run(t, i, kNumber);
}
uint32_t match_3_numbers(const CharSpan& t, uint32_t i) {
  return numbers(t, i, 3);
}

// "[0-9][0-9][0-9]"
uint32_t match_3_digits(const CharSpan& t, uint32_t i) {
  const uint32_t end = run_while(
      t, i, [&](uint32_t k) { return k < i + 3 && t.code_points[k] >= '0' && t.code_points[k] <= '9'; });
  return end == i + 3 ? end : i;
}

// "[\p{P}$+<=>^~|]+", with the backtick for falcon.
uint32_t punctuation(const CharSpan& t, uint32_t i, bool backtick) {
  return run_while(t, i, [&](uint32_t k) {
    const uint32_t c = t.code_points[k];
    if (contains(kPunctuation, t.classes[k]) || (backtick && c == '`')) return true;
    return c < 0x80 && std::string_view("$+<=>^~|").find(static_cast<char>(c)) != std::string_view::npos;
  });
}
uint32_t match_default_punctuation(const CharSpan& t, uint32_t i) {
  return punctuation(t, i, false);
}
uint32_t match_falcon_punctuation(const CharSpan& t, uint32_t i) {
  return punctuation(t, i, true);
}

// The cased letters that deepseek-llm's tokenizer.json lists one by one.
constexpr Range kDeepseekLetters[] = {
    {0x0041, 0x005A},   {0x0061, 0x007A},   {0x00B5, 0x00B5},   {0x00C0, 0x00D6},   {0x00D8, 0x00F6},
    {0x00F8, 0x01BA},   {0x01BC, 0x01BF},   {0x01C4, 0x0293},   {0x0295, 0x02AF},   {0x0370, 0x0373},
    {0x0376, 0x0377},   {0x037B, 0x037D},   {0x037F, 0x037F},   {0x0386, 0x0386},   {0x0388, 0x038A},
    {0x038C, 0x038C},   {0x038E, 0x03A1},   {0x03A3, 0x03F5},   {0x03F7, 0x0481},   {0x048A, 0x052F},
    {0x0531, 0x0556},   {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},   {0x1C90, 0x1CBA},
    {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},   {0x1D79, 0x1D9A},   {0x1E00, 0x1F15},
    {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},   {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},   {0x1F59, 0x1F59},
    {0x1F5B, 0x1F5B},   {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},   {0x1FB6, 0x1FBC},
    {0x1FBE, 0x1FBE},   {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},   {0x1FD6, 0x1FDB},
    {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},   {0x2102, 0x2102},   {0x2107, 0x2107},
    {0x210A, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211D},   {0x2124, 0x2124},   {0x2126, 0x2126},
    {0x2128, 0x2128},   {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},   {0x213C, 0x213F},
    {0x2145, 0x2149},   {0x214E, 0x214E},   {0x2183, 0x2184},   {0x2C00, 0x2C7B},   {0x2C7E, 0x2CE4},
    {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF3},   {0xA640, 0xA66D},   {0xA680, 0xA69B},   {0xA722, 0xA76F},
    {0xA771, 0xA787},   {0xA78B, 0xA78E},   {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},
    {0xFF21, 0xFF3A},   {0xFF41, 0xFF5A},   {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB},
    {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
};
constexpr Range kDeepseekPunctuation[] = {{0x0021, 0x002F}, {0x003A, 0x007E}, {0x2018, 0x201F},
                                          {0x3000, 0x3002}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}};
constexpr Range kDeepseekCjk[] = {{0x0800, 0x9FA5}, {0xAC00, 0xD7FF}};
constexpr Range kDeepseek3Cjk[] = {{0x3040, 0x30FF}, {0x4E00, 0x9FA5}};

uint32_t match_deepseek_letters(const CharSpan& t, uint32_t i) {
  return optional_space_then(t, i, [&](uint32_t k) { return run_in(t, k, kDeepseekLetters); });
}
uint32_t match_deepseek_punctuation(const CharSpan& t, uint32_t i) {
  return optional_space_then(t, i, [&](uint32_t k) { return run_in(t, k, kDeepseekPunctuation); });
}
uint32_t match_deepseek_cjk(const CharSpan& t, uint32_t i) {
  return run_in(t, i, kDeepseekCjk);
}
uint32_t match_deepseek3_cjk(const CharSpan& t, uint32_t i) {
  return run_in(t, i, kDeepseek3Cjk);
}

// "\s+$". Inside a run the attempt at its first character has already failed: trying again would be
// quadratic.
uint32_t match_trailing_space(const CharSpan& t, uint32_t i) {
  if (i > t.begin && is(t, i - 1, kSpace)) return i;
  const uint32_t end = run(t, i, kSpace);
  return end == t.end ? end : i;
}

uint32_t match_spaced_letters(const CharSpan& t, uint32_t i) {
  return optional_space_then(t, i, [&](uint32_t k) { return run(t, k, kLetter); });
}
uint32_t match_spaced_punctuation(const CharSpan& t, uint32_t i) {
  return optional_space_then(t, i, [&](uint32_t k) { return run(t, k, kPunctuation); });
}

bool ascii_letter(const CharSpan& t, uint32_t i) {
  return i < t.end && ((t.code_points[i] | 0x20u) >= 'a' && (t.code_points[i] | 0x20u) <= 'z');
}

// "[ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" | white space
uint32_t match_deepseek3(const CharSpan& t, uint32_t i) {
  if (t.code_points[i] < 0x80 && is(t, i, kPunctuation | kSymbol) && ascii_letter(t, i + 1)) {
    return run_while(t, i + 1, [&](uint32_t k) { return ascii_letter(t, k); });
  }
  uint32_t end = prefixed_run(t, i, kLetter | kPunctuation | kSymbol, kLetter | kMark);
  if (end != i) return end;
  end = spaced_run(t, i, kPunctuation | kSymbol);
  return end == i ? white_space(t, i) : newlines(t, end);
}

constexpr PieceMatcher kGpt2[] = {match_gpt2};
constexpr PieceMatcher kSmollm[] = {match_number, match_gpt2};
constexpr PieceMatcher kLlama3[] = {match_llama3};
constexpr PieceMatcher kQwen2[] = {match_qwen2};
constexpr PieceMatcher kQwen35[] = {match_qwen35};
constexpr PieceMatcher kTekken[] = {match_tekken};
constexpr PieceMatcher kGpt4o[] = {match_gpt4o};
constexpr PieceMatcher kDeepseekLlm[] = {
    match_newline,        match_deepseek_letters, match_deepseek_punctuation,
    match_trailing_space, match_deepseek_cjk,     match_numbers};
constexpr PieceMatcher kDeepseek3[] = {match_3_numbers, match_deepseek3_cjk, match_deepseek3};
constexpr PieceMatcher kDeepseekCoder[] = {match_newline, match_spaced_letters, match_spaced_punctuation,
                                           match_deepseek_cjk, match_number};
constexpr PieceMatcher kFalcon[] = {match_falcon_punctuation, match_gpt2, match_3_digits};
constexpr PieceMatcher kDefault[] = {match_default_punctuation, match_gpt2, match_numbers, match_3_digits};

constexpr std::string_view kGpt2Names[] = {
    "gpt-2",           "mpt",     "olmo",    "phi-2",      "exaone4",    "modern-bert", "trillion",
    "granite-docling", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de",  "jina-v2-code"};
constexpr std::string_view kSmollmNames[] = {"smollm",    "starcoder", "refact",    "command-r",
                                             "codeshell", "exaone",    "minerva-7b"};
constexpr std::string_view kLlama3Names[] = {"llama-bpe", "llama3",  "llama-v3", "falcon3",
                                             "falcon-h1", "pixtral", "lfm2",     "midm-2.0"};
constexpr std::string_view kDbrxNames[] = {"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"};
constexpr std::string_view kQwen2Names[] = {"qwen2",     "deepseek-r1-qwen", "megrez", "hunyuan",
                                            "stablelm2", "solar-open",       "grok-2"};
constexpr std::string_view kQwen35Names[] = {"qwen35"};
constexpr std::string_view kTekkenNames[] = {"tekken"};
constexpr std::string_view kGpt4oNames[] = {"gpt-4o", "llama4", "kanana2", "minimax-m2"};
constexpr std::string_view kDeepseekLlmNames[] = {"deepseek-llm"};
constexpr std::string_view kDeepseek3Names[] = {"deepseek-v3", "hunyuan-dense", "joyai-llm"};
constexpr std::string_view kDeepseekCoderNames[] = {"deepseek-coder"};
constexpr std::string_view kFalconNames[] = {"falcon"};
constexpr std::string_view kDefaultNames[] = {"default"};

struct NamedPreTokenizer {
  std::span<const std::string_view> names;
  PreTokenizer pre;
};

constexpr NamedPreTokenizer kPreTokenizers[] = {
    {kGpt2Names, {kGpt2}},
    {kSmollmNames, {kSmollm}},
    {kLlama3Names, {kLlama3, true, true}},
    {kDbrxNames, {kLlama3}},
    {kQwen2Names, {kQwen2}},
    {kQwen35Names, {kQwen35}},
    {kTekkenNames, {kTekken, true, true}},
    {kGpt4oNames, {kGpt4o}},
    {kDeepseekLlmNames, {kDeepseekLlm}},
    {kDeepseek3Names, {kDeepseek3}},
    {kDeepseekCoderNames, {kDeepseekCoder}},
    {kFalconNames, {kFalcon}},
    {kDefaultNames, {kDefault}},
};

}  // namespace

const PreTokenizer* find_pre_tokenizer(std::string_view name) {
  for (const NamedPreTokenizer& entry : kPreTokenizers) {
    if (std::find(entry.names.begin(), entry.names.end(), name) != entry.names.end()) return &entry.pre;
  }
  return nullptr;
}

std::vector<std::string_view> split_pieces(const PreTokenizer& pre, std::string_view text) {
  std::vector<uint32_t> code_points;
  std::vector<CharClass> classes;
  std::vector<uint32_t> offsets;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = next_char(text, i);
    code_points.push_back(c.code_point);
    classes.push_back(char_class(c.code_point));
    offsets.push_back(static_cast<uint32_t>(i));
    i += c.bytes;
  }
  if (code_points.empty()) return {};
  offsets.push_back(static_cast<uint32_t>(text.size()));

  std::vector<uint32_t> ends{static_cast<uint32_t>(code_points.size())};
  for (const PieceMatcher match : pre.stages) {
    std::vector<uint32_t> cut;
    cut.reserve(ends.size());
    CharSpan span{code_points.data(), classes.data(), 0, 0};
    for (const uint32_t piece_end : ends) {
      span.begin = span.end;
      span.end = piece_end;
      uint32_t gap = span.begin;
      for (uint32_t i = span.begin; i < span.end;) {
        const uint32_t end = match(span, i);
        if (end == i) {
          ++i;
          continue;
        }
        if (gap < i) cut.push_back(i);
        cut.push_back(end);
        i = gap = end;
      }
      if (gap < span.end) cut.push_back(span.end);
    }
    ends = std::move(cut);
  }

  std::vector<std::string_view> pieces;
  pieces.reserve(ends.size());
  uint32_t begin = 0;
  for (const uint32_t end : ends) {
    pieces.push_back(text.substr(offsets[begin], offsets[end] - offsets[begin]));
    begin = end;
  }
  return pieces;
}

}  // namespace trimtok
