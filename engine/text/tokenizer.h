// Text to ids and back, as the GGUF's tokenizer.* keys say (spec 10).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/gguf/file.h"
#include "engine/text/special_tokens.h"
#include "engine/text/vocab.h"

namespace trimtok {

enum class TokenType : uint8_t { kUndefined, kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

class Tokenizer {
 public:
  // n_rows: rows of token_embd; tokens beyond it are never produced. Throws Error(kFormat | kUnsupported).
  static std::unique_ptr<Tokenizer> from_gguf(const GgufFile& file, int64_t n_rows);
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Invalid UTF-8 is replaced by U+FFFD. parse_special: control tokens written in the text become their
  // id (user-defined tokens always do); without it no token the file marks as control is produced. U+FDD0 in
  // the text is dropped after special tokens were matched: callers put it inside user text to keep "</s>"
  // from being one. Adds neither BOS nor EOS.
  std::vector<int32_t> encode(std::string_view text, bool parse_special) const;
  // Whole-text decoding. Control tokens are printed only if asked for. Invalid bytes stay as they are.
  std::string decode(const std::vector<int32_t>& ids, bool print_special) const;
  // The bytes of one token as they appear inside a text; may be part of a UTF-8 character.
  std::string piece(int32_t id, bool print_special) const;

  int32_t n_tokens() const noexcept { return static_cast<int32_t>(tokens_.size()); }
  const std::string& text(int32_t id) const;  // as stored in the file; throws on a bad id
  TokenType type(int32_t id) const;
  int32_t find(std::string_view token_text) const;  // -1 when there is none; the first of duplicates
  int32_t bos() const noexcept { return bos_; }     // -1 when there is none
  int32_t eos() const noexcept { return eos_; }
  bool add_bos() const noexcept { return add_bos_; }
  bool add_eos() const noexcept { return add_eos_; }
  bool is_eog(int32_t id) const;
  // Never to be sampled: the file's list and rows of token_embd without a token. Sorted, unique.
  const std::vector<int32_t>& suppressed() const noexcept { return suppressed_; }
  const std::vector<std::string>& warnings() const noexcept { return warnings_; }
  const std::string& model() const noexcept { return model_; }  // "llama", "gpt2"
  const std::string& pre() const noexcept { return pre_; }      // as stored; "" when the file has none

 protected:
  // What a model assumes where the file is silent.
  struct Defaults {
    int64_t bos = -1;
    int64_t eos = -1;
    bool only_control = false;  // the ids count only if they are control tokens
    bool add_bos = false;
  };
  Tokenizer(const VocabData& vocab, int64_t n_rows, const Defaults& defaults);

  // One raw fragment: not empty, valid UTF-8. Fragments start the text or follow a special token, always.
  virtual void encode_fragment(std::string_view text, std::vector<int32_t>& out) const = 0;
  // The bytes of a token that is neither special nor a byte token.
  virtual std::string plain_piece(const std::string& token_text) const = 0;

  // Like find, but only tokens that raw text may become: none that the file marks as control, unknown or byte
  // token, as in SentencePiece. Otherwise merges could produce "</s>" from user text.
  int32_t find_plain(std::string_view token_text) const;
  bool is_plain(int32_t id) const { return plain_[id]; }
  // `id` if it is in the vocabulary, else -1 with a warning that names `what`.
  int32_t checked_id(int64_t id, const char* what);
  void warn(std::string message) { warnings_.push_back(std::move(message)); }

  std::vector<std::string> tokens_;
  std::vector<TokenType> types_;
  std::vector<std::string> warnings_;
  bool strips_space_ = false;  // decode drops the space that encode put before the text

 private:
  void load_tokens(const VocabData& vocab, int64_t n_rows);
  void load_types(const VocabData& vocab);
  void load_eog(const VocabData& vocab);
  void load_special_tokens(const VocabData& vocab);
  void load_suppressed(const VocabData& vocab, int64_t n_rows);
  void set_eog(int32_t id);

  std::unordered_map<std::string_view, int32_t> index_;  // views into tokens_, which never changes again
  SpecialMatcher specials_;
  std::vector<bool> plain_;  // by the stored type: a promoted "</s>" was ordinary text in training
  std::vector<bool> eog_;
  std::vector<int32_t> suppressed_;
  std::string model_, pre_;
  int32_t bos_ = -1, eos_ = -1;
  bool add_bos_ = false, add_eos_ = false;
};

// Joins token pieces into text that is always whole UTF-8 characters. What it gives in all is
// to_valid_utf8 of the joined pieces, for any ids.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string push(int32_t id);  // the characters that became complete, maybe none
  std::string finish();          // what is left, broken characters as U+FFFD

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
};

}  // namespace trimtok
