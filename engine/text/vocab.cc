#include "engine/text/vocab.h"

#include <limits>

#include "engine/core/error.h"
#include "engine/text/tokenizer.h"

namespace trimtok {
namespace {

std::optional<int64_t> optional_id(const GgufFile& file, std::string_view key) {
  if (!file.has(key)) return std::nullopt;
  // Any value is read here: one outside the vocabulary is a warning, not an error (spec 1.9, 14).
  return file.get_int(key, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
}

std::optional<bool> optional_bool(const GgufFile& file, std::string_view key) {
  if (!file.has(key)) return std::nullopt;
  return file.get_bool(key, false);
}

}  // namespace

VocabData read_vocab(const GgufFile& file) {
  VocabData vocab;
  vocab.model = file.get_string("tokenizer.ggml.model");
  vocab.pre = file.get_string("tokenizer.ggml.pre", "");
  vocab.name = file.get_string("general.name", "");
  if (const auto* tokens = file.find_strings("tokenizer.ggml.tokens")) vocab.tokens = *tokens;
  vocab.scores = file.find_floats("tokenizer.ggml.scores");
  if (const auto* types = file.find_ints("tokenizer.ggml.token_type")) vocab.types = *types;
  if (const auto* merges = file.find_strings("tokenizer.ggml.merges")) vocab.merges = *merges;
  if (const auto* ids = file.find_ints("tokenizer.ggml.suppress_tokens")) vocab.suppressed = *ids;
  vocab.bos = optional_id(file, "tokenizer.ggml.bos_token_id");
  vocab.eos = optional_id(file, "tokenizer.ggml.eos_token_id");
  vocab.eot = optional_id(file, "tokenizer.ggml.eot_token_id");
  vocab.eom = optional_id(file, "tokenizer.ggml.eom_token_id");
  vocab.unknown = optional_id(file, "tokenizer.ggml.unknown_token_id");
  vocab.fim_pad = optional_id(file, "tokenizer.ggml.fim_pad_token_id");
  vocab.fim_rep = optional_id(file, "tokenizer.ggml.fim_rep_token_id");
  vocab.fim_sep = optional_id(file, "tokenizer.ggml.fim_sep_token_id");
  vocab.add_bos = optional_bool(file, "tokenizer.ggml.add_bos_token");
  vocab.add_eos = optional_bool(file, "tokenizer.ggml.add_eos_token");
  vocab.add_space_prefix = optional_bool(file, "tokenizer.ggml.add_space_prefix");
  return vocab;
}

std::unique_ptr<Tokenizer> make_tokenizer(const VocabData& vocab, int64_t n_rows) {
  if (vocab.model == "llama") return make_spm_tokenizer(vocab, n_rows);
  if (vocab.model == "gpt2") return make_bpe_tokenizer(vocab, n_rows);
  fail(ErrorCode::kUnsupported,
       "[tokenizer] tokenizer.ggml.model is \"%.64s\", supported are \"llama\" (SentencePiece) and \"gpt2\" "
       "(byte-level BPE); use a model with one of these",
       vocab.model.c_str());
}

}  // namespace trimtok
