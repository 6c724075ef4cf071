// What a file says about its vocabulary, and the parts a tokenizer is made of.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/gguf/file.h"

namespace trimtok {

class Tokenizer;

// The tokenizer.* keys, not yet checked. The spans belong to whoever filled it and are copied by
// make_tokenizer.
struct VocabData {
  std::string model;  // "llama", "gpt2"
  std::string pre;    // empty: key missing
  std::string name;   // general.name
  std::span<const std::string> tokens;
  std::optional<std::vector<double>> scores;
  std::optional<std::span<const int64_t>> types;
  std::optional<std::span<const std::string>> merges;
  std::span<const int64_t> suppressed;
  std::optional<int64_t> bos, eos, eot, eom, unknown, fim_pad, fim_rep, fim_sep;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

VocabData read_vocab(const GgufFile& file);

// n_rows: rows of token_embd. Throws Error(kFormat | kUnsupported).
std::unique_ptr<Tokenizer> make_tokenizer(const VocabData& vocab, int64_t n_rows);
std::unique_ptr<Tokenizer> make_spm_tokenizer(const VocabData& vocab, int64_t n_rows);
std::unique_ptr<Tokenizer> make_bpe_tokenizer(const VocabData& vocab, int64_t n_rows);

}  // namespace trimtok
