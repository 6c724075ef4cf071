// SentencePiece BPE (spec 10.2): scores choose the merges, bytes serve what the vocabulary lacks.
#include <algorithm>
#include <array>
#include <cmath>
#include <queue>
#include <utility>

#include "engine/core/error.h"
#include "engine/text/tokenizer.h"
#include "engine/text/unicode.h"

namespace trimtok {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

std::string escape_spaces(std::string_view text, bool prefix) {
  std::string out;
  out.reserve(text.size() + text.size() / 2 + kSpaceMark.size());
  if (prefix) out += kSpaceMark;
  for (const char c : text) {
    if (c == ' ') {
      out += kSpaceMark;
    } else {
      out += c;
    }
  }
  return out;
}

class SpmTokenizer final : public Tokenizer {
 public:
  SpmTokenizer(const VocabData& vocab, int64_t n_rows)
      : Tokenizer(vocab, n_rows, {.bos = 1, .eos = 2, .only_control = false, .add_bos = true}),
        add_space_prefix_(vocab.add_space_prefix.value_or(true)) {
    strips_space_ = add_space_prefix_;
    load_scores(vocab);
    if (vocab.unknown) {
      unknown_ = checked_id(*vocab.unknown, "unknown_token_id");
    } else if (types_[0] == TokenType::kUnknown || tokens_[0] == "<unk>") {
      unknown_ = 0;
    }
    load_bytes();
  }

 protected:
  void encode_fragment(std::string_view text, std::vector<int32_t>& out) const override;
  std::string plain_piece(const std::string& token_text) const override;

 private:
  // A run of the escaped text that is one unit so far; bytes == 0: it became part of its left neighbour.
  struct Symbol {
    uint32_t begin = 0;
    uint32_t bytes = 0;
    int32_t previous = -1;
    int32_t next = -1;
  };
  struct Pair {
    float score;
    int32_t left;
    int32_t right;
    uint32_t bytes;                            // of both when it was queued: tells stale entries
    bool operator<(const Pair& other) const {  // the queue's top is the largest: best score, then leftmost
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  using Queue = std::priority_queue<Pair>;

  void load_scores(const VocabData& vocab);
  void load_bytes();
  void queue_pair(std::string_view text, const std::vector<Symbol>& symbols, int32_t left,
                  Queue& queue) const;
  void emit(std::string_view symbol, std::vector<int32_t>& out) const;

  bool add_space_prefix_;
  int32_t unknown_ = -1;
  size_t longest_ = 0;  // bytes of the longest token
  std::vector<float> scores_;
  std::array<int32_t, 256> byte_ids_{};
};

void SpmTokenizer::load_scores(const VocabData& vocab) {
  scores_.assign(tokens_.size(), 0.0f);
  for (const std::string& token : tokens_) longest_ = std::max(longest_, token.size());
  if (!vocab.scores) {
    warn(
        "[tokenizer] tokenizer.ggml.scores is missing: text is merged from the left, not as the model was "
        "trained");
    return;
  }
  if (vocab.scores->size() < tokens_.size()) {
    fail(ErrorCode::kFormat,
         "[tokenizer] tokenizer.ggml.scores has %zu entries for %zu tokens, expected one each",
         vocab.scores->size(), tokens_.size());
  }
  for (size_t i = 0; i < tokens_.size(); ++i) {
    scores_[i] = static_cast<float>((*vocab.scores)[i]);
    if (std::isnan(scores_[i])) {
      fail(ErrorCode::kFormat, "[tokenizer] the score of token %zu is NaN, expected a number", i);
    }
  }
}

void SpmTokenizer::load_bytes() {
  int32_t n_missing = 0;
  for (int32_t b = 0; b < 256; ++b) {
    byte_ids_[b] = find(format("<0x%02X>", static_cast<unsigned>(b)));
    if (byte_ids_[b] < 0 || types_[byte_ids_[b]] == TokenType::kControl) {
      byte_ids_[b] = unknown_;
      ++n_missing;
    }
  }
  if (n_missing > 0) {
    warn(format("[tokenizer] %d of 256 byte tokens are missing: what needs them becomes %s", n_missing,
                unknown_ >= 0 ? "the unknown token" : "nothing, for there is no unknown token either"));
  }
}

void SpmTokenizer::queue_pair(std::string_view text, const std::vector<Symbol>& symbols, int32_t left,
                              Queue& queue) const {
  if (left < 0 || symbols[left].next < 0) return;
  const int32_t right = symbols[left].next;
  const uint32_t bytes = symbols[left].bytes + symbols[right].bytes;
  if (bytes > longest_) return;
  const int32_t id = find_plain(text.substr(symbols[left].begin, bytes));
  if (id >= 0) queue.push({scores_[id], left, right, bytes});
}

void SpmTokenizer::emit(std::string_view symbol, std::vector<int32_t>& out) const {
  const int32_t id = find_plain(symbol);
  if (id >= 0) {
    out.push_back(id);
    return;
  }
  for (const char c : symbol) {
    const int32_t byte_id = byte_ids_[static_cast<uint8_t>(c)];
    if (byte_id >= 0) out.push_back(byte_id);
  }
}

void SpmTokenizer::encode_fragment(std::string_view raw, std::vector<int32_t>& out) const {
  const std::string escaped = escape_spaces(raw, add_space_prefix_);
  const std::string_view text = escaped;
  std::vector<Symbol> symbols;
  for (size_t i = 0; i < text.size();) {
    const uint32_t bytes = next_char(text, i).bytes;
    const auto index = static_cast<int32_t>(symbols.size());
    symbols.push_back({static_cast<uint32_t>(i), bytes, index - 1, index + 1});
    i += bytes;
  }
  symbols.back().next = -1;

  Queue queue;
  for (size_t i = 0; i < symbols.size(); ++i) queue_pair(text, symbols, static_cast<int32_t>(i), queue);
  while (!queue.empty()) {
    const Pair pair = queue.top();
    queue.pop();
    Symbol& left = symbols[pair.left];
    Symbol& right = symbols[pair.right];
    if (left.bytes == 0 || right.bytes == 0 || left.bytes + right.bytes != pair.bytes) continue;
    left.bytes = pair.bytes;
    right.bytes = 0;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = pair.left;
    queue_pair(text, symbols, left.previous, queue);
    queue_pair(text, symbols, pair.left, queue);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) emit(text.substr(symbols[i].begin, symbols[i].bytes), out);
}

std::string SpmTokenizer::plain_piece(const std::string& token_text) const {
  std::string out;
  std::string_view rest = token_text;
  for (size_t at; (at = rest.find(kSpaceMark)) != std::string_view::npos;) {
    out += rest.substr(0, at);
    out += ' ';
    rest.remove_prefix(at + kSpaceMark.size());
  }
  return out += rest;
}

}  // namespace

std::unique_ptr<Tokenizer> make_spm_tokenizer(const VocabData& vocab, int64_t n_rows) {
  return std::make_unique<SpmTokenizer>(vocab, n_rows);
}

}  // namespace trimtok
