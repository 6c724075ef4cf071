#include "engine/text/tokenizer.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/core/error.h"
#include "engine/text/unicode.h"

namespace trimtok {
namespace {

constexpr size_t kMaxTokenBytes = 65535;
// Bounds the matcher's automaton (about 24 bytes per byte); real vocabularies stay below 2 MB.
constexpr size_t kMaxSpecialBytes = size_t{8} << 20;
constexpr size_t kMaxTextBytes = size_t{1} << 30;      // positions are 32 bits wide
constexpr std::string_view kBreaker = "\xEF\xB7\x90";  // U+FDD0

// Texts that end a generation whatever the file says about them (spec 10.5); the last two rows are the
// "fill in the middle" padding, repository and file separators.
constexpr std::string_view kEogTexts[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
};

// "<0xHH>" with capitals; -1 for anything else.
int32_t byte_token_value(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
  int32_t value = 0;
  for (const char c : text.substr(3, 2)) {
    if (c >= '0' && c <= '9') {
      value = value * 16 + (c - '0');
    } else if (c >= 'A' && c <= 'F') {
      value = value * 16 + (c - 'A' + 10);
    } else {
      return -1;
    }
  }
  return value;
}

// For messages: printable ASCII of the token, shortened.
std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, 40)) out += c >= ' ' && c <= '~' && c != '"' ? c : '?';
  return out + (text.size() > 40 ? "...\"" : "\"");
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::from_gguf(const GgufFile& file, int64_t n_rows) {
  return make_tokenizer(read_vocab(file), n_rows);
}

Tokenizer::Tokenizer(const VocabData& vocab, int64_t n_rows, const Defaults& defaults)
    : model_(vocab.model), pre_(vocab.pre) {
  load_tokens(vocab, n_rows);
  load_types(vocab);
  load_eog(vocab);
  const auto special_id = [&](const std::optional<int64_t>& stored, int64_t fallback, const char* what) {
    if (stored) return checked_id(*stored, what);
    if (fallback < 0 || fallback >= n_tokens()) return -1;
    const auto id = static_cast<int32_t>(fallback);
    return defaults.only_control && types_[id] != TokenType::kControl ? -1 : id;
  };
  bos_ = special_id(vocab.bos, defaults.bos, "bos_token_id");
  eos_ = special_id(vocab.eos, defaults.eos, "eos_token_id");
  set_eog(eos_);
  add_bos_ = vocab.add_bos.value_or(defaults.add_bos) && bos_ >= 0;
  add_eos_ = vocab.add_eos.value_or(false) && eos_ >= 0;
  if (std::find(eog_.begin(), eog_.end(), true) == eog_.end()) {
    warn("[tokenizer] the vocabulary has no token that ends a generation: only max_tokens will");
  }
  load_special_tokens(vocab);
  load_suppressed(vocab, n_rows);
}

void Tokenizer::load_tokens(const VocabData& vocab, int64_t n_rows) {
  constexpr int64_t kMaxIds = std::numeric_limits<int32_t>::max();
  if (vocab.tokens.empty()) {
    fail(ErrorCode::kFormat,
         "[tokenizer] tokenizer.ggml.tokens is missing or empty, expected an array of strings");
  }
  if (n_rows < 1 || n_rows > kMaxIds) {
    fail(ErrorCode::kFormat, "[tokenizer] token_embd has %lld rows, expected 1 to %lld",
         static_cast<long long>(n_rows), static_cast<long long>(kMaxIds));
  }
  const size_t n = std::min(vocab.tokens.size(), static_cast<size_t>(n_rows));
  if (n < vocab.tokens.size()) {
    warn(format("[tokenizer] %zu tokens but token_embd has %lld rows: the tokens beyond are not used",
                vocab.tokens.size(), static_cast<long long>(n_rows)));
  }
  tokens_.assign(vocab.tokens.begin(), vocab.tokens.begin() + static_cast<std::ptrdiff_t>(n));
  size_t n_empty = 0;
  for (size_t i = 0; i < n; ++i) {
    if (tokens_[i].size() > kMaxTokenBytes) {
      fail(ErrorCode::kFormat, "[tokenizer] token %zu is %zu bytes long, expected at most %zu", i,
           tokens_[i].size(), kMaxTokenBytes);
    }
    if (tokens_[i].empty()) {
      tokens_[i] = format("[EMPTY_%zu]", i);
      ++n_empty;
    }
  }
  if (n_empty > 0) warn(format("[tokenizer] %zu tokens are empty; named [EMPTY_<id>]", n_empty));

  index_.reserve(n);
  size_t n_duplicates = 0;
  int32_t example = -1;
  for (size_t i = 0; i < n; ++i) {
    if (index_.emplace(tokens_[i], static_cast<int32_t>(i)).second) continue;
    if (n_duplicates++ == 0) example = static_cast<int32_t>(i);
  }
  if (n_duplicates > 0) {
    warn(format("[tokenizer] %zu tokens repeat an earlier one, first %s at id %d: the earlier id is used",
                n_duplicates, quoted(tokens_[example]).c_str(), example));
  }
}

void Tokenizer::load_types(const VocabData& vocab) {
  types_.assign(tokens_.size(), TokenType::kNormal);
  plain_.assign(tokens_.size(), true);
  if (!vocab.types) {
    warn(
        "[tokenizer] tokenizer.ggml.token_type is missing: only byte tokens and ends of generation are "
        "recognised");
    if (vocab.model != "llama") return;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (byte_token_value(tokens_[i]) < 0) continue;
      types_[i] = TokenType::kByte;
      plain_[i] = false;
    }
    return;
  }
  if (vocab.types->size() < tokens_.size()) {
    fail(ErrorCode::kFormat,
         "[tokenizer] tokenizer.ggml.token_type has %zu entries for %zu tokens, expected one each",
         vocab.types->size(), tokens_.size());
  }
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const int64_t stored = (*vocab.types)[i];
    types_[i] = stored >= 1 && stored <= 6 ? static_cast<TokenType>(stored) : TokenType::kUndefined;
    plain_[i] =
        types_[i] != TokenType::kControl && types_[i] != TokenType::kUnknown && types_[i] != TokenType::kByte;
    if (types_[i] == TokenType::kByte && byte_token_value(tokens_[i]) < 0) {
      fail(ErrorCode::kFormat,
           "[tokenizer] token %zu is a byte token but reads %s, expected <0x00> to <0xFF>", i,
           quoted(tokens_[i]).c_str());
    }
  }
}

void Tokenizer::set_eog(int32_t id) {
  if (id >= 0) eog_[id] = true;
}

void Tokenizer::load_eog(const VocabData& vocab) {
  eog_.assign(tokens_.size(), false);
  for (const std::string_view text : kEogTexts) {
    const int32_t id = find(text);
    if (id < 0) continue;
    set_eog(id);
    if (types_[id] != TokenType::kControl) {
      warn(format("[tokenizer] token %d %s ends a generation but is not a control token: treated as one", id,
                  quoted(text).c_str()));
      types_[id] = TokenType::kControl;
    }
  }
  const auto add = [&](const std::optional<int64_t>& id, const char* what) {
    if (id) set_eog(checked_id(*id, what));
  };
  add(vocab.eot, "eot_token_id");
  add(vocab.eom, "eom_token_id");
  add(vocab.fim_pad, "fim_pad_token_id");
  add(vocab.fim_rep, "fim_rep_token_id");
  add(vocab.fim_sep, "fim_sep_token_id");
  // In these two families <|end|> closes a message, not the turn.
  const auto has = [&](std::string_view text) { return find(text) >= 0; };
  if ((has("<|return|>") && has("<|call|>")) || (has("<|calls|>") && has("<|flush|>"))) {
    if (has("<|end|>")) eog_[find("<|end|>")] = false;
  }
}

void Tokenizer::load_special_tokens(const VocabData& vocab) {
  // Phi-3's special tokens swallow the white space after them; GGUF cannot say so (spec 10.1, 3).
  std::string name = vocab.name;
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  const bool phi3 = name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos;
  std::vector<SpecialToken> specials;
  std::unordered_map<std::string_view, bool> seen;
  size_t total = 0;
  for (int32_t id = 0; id < n_tokens(); ++id) {
    const TokenType type = types_[id];
    if (type != TokenType::kControl && type != TokenType::kUserDefined && type != TokenType::kUnknown)
      continue;
    const std::string_view text = tokens_[id];
    if (!is_valid_utf8(text)) {
      // It could match inside a character and leave broken text on both sides.
      warn(format("[tokenizer] special token %d %s is not valid UTF-8: never matched in text", id,
                  quoted(text).c_str()));
      continue;
    }
    if (!seen.emplace(text, true).second) continue;
    total += text.size();
    const bool strips = phi3 && text != "<unk>" && text != "<s>" && text != "<|endoftext|>";
    specials.push_back({id, text, type == TokenType::kUserDefined, strips});
  }
  if (total > kMaxSpecialBytes) {
    fail(ErrorCode::kUnsupported,
         "[tokenizer] the special tokens are %zu bytes long in all, supported are %zu", total,
         kMaxSpecialBytes);
  }
  specials_ = SpecialMatcher(std::move(specials));
}

void Tokenizer::load_suppressed(const VocabData& vocab, int64_t n_rows) {
  size_t n_outside = 0;
  for (const int64_t id : vocab.suppressed) {
    if (id >= 0 && id < n_rows) {
      suppressed_.push_back(static_cast<int32_t>(id));
    } else {
      ++n_outside;
    }
  }
  if (n_outside > 0) {
    warn(format("[tokenizer] %zu ids of tokenizer.ggml.suppress_tokens are outside 0..%lld: ignored",
                n_outside, static_cast<long long>(n_rows - 1)));
  }
  for (int64_t id = n_tokens(); id < n_rows; ++id) suppressed_.push_back(static_cast<int32_t>(id));
  std::sort(suppressed_.begin(), suppressed_.end());
  suppressed_.erase(std::unique(suppressed_.begin(), suppressed_.end()), suppressed_.end());
}

int32_t Tokenizer::checked_id(int64_t id, const char* what) {
  if (id >= 0 && id < n_tokens()) return static_cast<int32_t>(id);
  warn(format("[tokenizer] tokenizer.ggml.%s is %lld, expected 0..%d: ignored", what,
              static_cast<long long>(id), n_tokens() - 1));
  return -1;
}

const std::string& Tokenizer::text(int32_t id) const {
  if (id < 0 || id >= n_tokens()) {
    fail(ErrorCode::kInvalidArgument, "[tokenizer] token id %d is outside the vocabulary, expected 0..%d", id,
         n_tokens() - 1);
  }
  return tokens_[id];
}

TokenType Tokenizer::type(int32_t id) const {
  text(id);
  return types_[id];
}

bool Tokenizer::is_eog(int32_t id) const {
  text(id);
  return eog_[id];
}

int32_t Tokenizer::find(std::string_view token_text) const {
  const auto it = index_.find(token_text);
  return it == index_.end() ? -1 : it->second;
}

int32_t Tokenizer::find_plain(std::string_view token_text) const {
  const int32_t id = find(token_text);
  return id >= 0 && is_plain(id) ? id : -1;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool parse_special) const {
  if (text.size() > kMaxTextBytes) {
    fail(ErrorCode::kInvalidArgument, "[tokenizer] the text is %zu bytes long, expected at most %zu",
         text.size(), kMaxTextBytes);
  }
  std::string repaired;
  if (!is_valid_utf8(text)) {
    repaired = to_valid_utf8(text);
    text = repaired;
  }
  std::vector<int32_t> out;
  const auto add_fragment = [&](std::string_view fragment) {
    std::string cleaned;
    if (fragment.find(kBreaker) != std::string_view::npos) {
      for (size_t at; (at = fragment.find(kBreaker)) != std::string_view::npos;) {
        cleaned += fragment.substr(0, at);
        fragment.remove_prefix(at + kBreaker.size());
      }
      cleaned += fragment;
      fragment = cleaned;
    }
    if (!fragment.empty()) encode_fragment(fragment, out);
  };
  size_t position = 0;
  for (const SpecialMatch& match : specials_.find(text, parse_special)) {
    add_fragment(text.substr(position, match.begin - position));
    out.push_back(match.id);
    position = match.next;
  }
  add_fragment(text.substr(position));
  return out;
}

std::string Tokenizer::piece(int32_t id, bool print_special) const {
  const std::string& stored = text(id);
  switch (types_[id]) {
    case TokenType::kControl:
    case TokenType::kUnknown:
      return print_special ? stored : std::string();
    case TokenType::kUserDefined:
      return stored;
    case TokenType::kByte:
      return std::string(1, static_cast<char>(byte_token_value(stored)));
    default:
      return plain_piece(stored);
  }
}

// HF's clean_up_tokenization_spaces is not applied: it looks ahead, so streamed and whole text would differ.
std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool print_special) const {
  std::string out;
  for (const int32_t id : ids) out += piece(id, print_special);
  // The space is encode's only before a raw fragment: not behind BOS (spec 10.2), not in a user-defined
  // token.
  const bool prefixed =
      strips_space_ && !ids.empty() && ids[0] != bos_ && types_[ids[0]] != TokenType::kUserDefined;
  if (prefixed && !out.empty() && out[0] == ' ') out.erase(0, 1);
  return out;
}

std::string StreamDecoder::push(int32_t id) {
  pending_ += tokenizer_.piece(id, false);
  std::string out;
  size_t i = 0;
  while (i < pending_.size()) {
    const Utf8Char c = next_char(pending_, i);
    if (c.status == Utf8Status::kIncomplete) break;
    append_utf8(out, c.code_point);
    i += c.bytes;
  }
  pending_.erase(0, i);
  return out;
}

std::string StreamDecoder::finish() {
  std::string out = to_valid_utf8(pending_);
  pending_.clear();
  return out;
}

}  // namespace trimtok
