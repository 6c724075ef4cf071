// Byte-level BPE (spec 10.3): text is cut into pieces, a piece's bytes are merged by rank.
#include <algorithm>
#include <array>
#include <queue>
#include <unordered_map>
#include <utility>

#include "engine/core/error.h"
#include "engine/text/pretokenizer.h"
#include "engine/text/tokenizer.h"
#include "engine/text/unicode.h"

namespace trimtok {
namespace {

// The printable code point that stands for each byte in token texts.
std::array<uint32_t, 256> byte_to_char() {
  std::array<uint32_t, 256> map{};
  uint32_t next = 0x100;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    map[b] = printable ? b : next++;
  }
  return map;
}
constexpr uint32_t kNumByteChars = 0x100 + 68;

constexpr uint32_t kNoRank = 0xFFFFFFFF;

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(const VocabData& vocab, int64_t n_rows, const PreTokenizer& pre)
      : Tokenizer(vocab, n_rows, {.bos = 11, .eos = 11, .only_control = true, .add_bos = pre.add_bos}),
        pre_rule_(pre) {
    if (find_pre_tokenizer(vocab.pre) == nullptr || vocab.pre == "default") {
      warn(format(
          "[tokenizer] tokenizer.ggml.pre is \"%.64s\", not the name of a known model: text is cut by the "
          "\"default\" rules, which may lower the quality; convert the model again with a current converter",
          vocab.pre.c_str()));
    }
    load_bytes();
    load_merges(vocab);
  }

 protected:
  void encode_fragment(std::string_view text, std::vector<int32_t>& out) const override;
  std::string plain_piece(const std::string& token_text) const override;

 private:
  // Symbols are token ids; texts that occur only in merges have numbers from n_tokens() on.
  struct Merge {
    int32_t left;
    int32_t right;
    uint32_t rank;
    int32_t result;
  };
  struct Workspace {
    std::vector<int32_t> symbols;  // by position of their first byte; -1: merged into the left neighbour
    std::vector<int32_t> previous, next;
    std::vector<const Merge*> pair;  // what merges a symbol with the next one
    std::vector<uint64_t> queue;     // heap of rank << 32 | position, the smallest first
    std::string mapped;
  };

  void load_bytes();
  void load_merges(const VocabData& vocab);
  const Merge* find_merge(int32_t left, int32_t right) const;
  void encode_piece(std::string_view piece, Workspace& work, std::vector<int32_t>& out) const;
  void queue_pair(int32_t position, Workspace& work) const;
  void merge_all(Workspace& work) const;

  const PreTokenizer& pre_rule_;
  std::array<std::string, 256> byte_texts_;  // UTF-8 of byte_to_char
  std::array<int32_t, 256> byte_symbols_{};
  std::array<int16_t, kNumByteChars> char_bytes_{};  // -1: the code point stands for no byte
  std::vector<Merge> merges_;                        // sorted by left, right; one per pair
  std::vector<uint32_t> first_merge_;                // of each left symbol; one more entry ends the last
  size_t longest_ = 0;                               // bytes of the longest token text
};

void BpeTokenizer::load_bytes() {
  const auto map = byte_to_char();
  char_bytes_.fill(-1);
  for (int32_t b = 0; b < 256; ++b) {
    char_bytes_[map[b]] = static_cast<int16_t>(b);
    append_utf8(byte_texts_[b], map[b]);
  }
  for (const std::string& token : tokens_) longest_ = std::max(longest_, token.size());
}

void BpeTokenizer::load_merges(const VocabData& vocab) {
  if (!vocab.merges) {
    fail(ErrorCode::kFormat,
         "[tokenizer] tokenizer.ggml.merges is missing, expected an array of \"left right\"");
  }
  std::unordered_map<std::string, int32_t> extra;
  const auto symbol = [&](std::string_view text) {
    const int32_t id = find_plain(text);
    if (id >= 0) return id;
    const auto fresh = static_cast<int64_t>(tokens_.size() + extra.size());
    if (fresh > 0x7FFFFFFF)
      fail(ErrorCode::kUnsupported, "[tokenizer] too many symbols, at most 2^31 are supported");
    return extra.emplace(text, static_cast<int32_t>(fresh)).first->second;
  };
  int32_t n_missing = 0;
  for (int32_t b = 0; b < 256; ++b) {
    byte_symbols_[b] = symbol(byte_texts_[b]);
    const bool in_utf8 = b < 0xC0 || (b > 0xC1 && b < 0xF5);  // other bytes never reach the encoder
    if (in_utf8 && byte_symbols_[b] >= n_tokens()) ++n_missing;
  }
  if (n_missing > 0) {
    warn(format("[tokenizer] %d of the 243 bytes of UTF-8 have no token: text that needs them loses them",
                n_missing));
  }

  const auto lines = *vocab.merges;
  merges_.reserve(lines.size());
  std::string joined;
  for (size_t rank = 0; rank < lines.size() && rank < kNoRank; ++rank) {
    const std::string_view line = lines[rank];
    const size_t space = line.find(' ', 1);
    if (line.empty() || space == std::string_view::npos || space + 1 == line.size()) {
      fail(ErrorCode::kFormat, "[tokenizer] merge %zu is not of the form \"left right\"", rank);
    }
    joined.assign(line.substr(0, space)).append(line.substr(space + 1));
    const int32_t id = find(joined);
    if (id >= 0 && !is_plain(id)) continue;  // raw text never becomes a control token
    merges_.push_back({symbol(line.substr(0, space)), symbol(line.substr(space + 1)),
                       static_cast<uint32_t>(rank), symbol(joined)});
  }
  std::sort(merges_.begin(), merges_.end(), [](const Merge& a, const Merge& b) {
    if (a.left != b.left) return a.left < b.left;
    return a.right != b.right ? a.right < b.right : a.rank < b.rank;
  });
  const auto same_pair = [](const Merge& a, const Merge& b) {
    return a.left == b.left && a.right == b.right;
  };
  merges_.erase(std::unique(merges_.begin(), merges_.end(), same_pair), merges_.end());
  first_merge_.assign(tokens_.size() + extra.size() + 1, 0);
  for (const Merge& merge : merges_) ++first_merge_[static_cast<size_t>(merge.left) + 1];
  for (size_t i = 1; i < first_merge_.size(); ++i) first_merge_[i] += first_merge_[i - 1];
}

const BpeTokenizer::Merge* BpeTokenizer::find_merge(int32_t left, int32_t right) const {
  const Merge* begin = merges_.data() + first_merge_[left];
  const Merge* end = merges_.data() + first_merge_[left + 1];
  const Merge* it =
      std::lower_bound(begin, end, right, [](const Merge& m, int32_t r) { return m.right < r; });
  return it != end && it->right == right ? it : nullptr;
}

void BpeTokenizer::queue_pair(int32_t position, Workspace& work) const {
  if (position < 0) return;
  const int32_t next = work.next[position];
  const Merge* merge = next < 0 ? nullptr : find_merge(work.symbols[position], work.symbols[next]);
  work.pair[position] = merge;
  if (merge == nullptr) return;
  work.queue.push_back((uint64_t{merge->rank} << 32) | static_cast<uint32_t>(position));
  std::push_heap(work.queue.begin(), work.queue.end(), std::greater<>());
}

void BpeTokenizer::merge_all(Workspace& work) const {
  while (!work.queue.empty()) {
    std::pop_heap(work.queue.begin(), work.queue.end(), std::greater<>());
    const uint64_t entry = work.queue.back();
    work.queue.pop_back();
    const auto left = static_cast<int32_t>(entry & 0xFFFFFFFF);
    const Merge* merge = work.pair[left];
    if (merge == nullptr || merge->rank != entry >> 32) continue;  // stale
    const int32_t right = work.next[left];
    work.symbols[left] = merge->result;
    work.symbols[right] = -1;
    work.pair[right] = nullptr;
    work.next[left] = work.next[right];
    if (work.next[left] >= 0) work.previous[work.next[left]] = left;
    queue_pair(work.previous[left], work);
    queue_pair(left, work);
  }
}

void BpeTokenizer::encode_piece(std::string_view piece, Workspace& work, std::vector<int32_t>& out) const {
  if (pre_rule_.ignore_merges && piece.size() <= longest_) {
    work.mapped.clear();
    for (const char c : piece) work.mapped += byte_texts_[static_cast<uint8_t>(c)];
    const int32_t id = find_plain(work.mapped);
    if (id >= 0) {
      out.push_back(id);
      return;
    }
  }
  const auto n = static_cast<int32_t>(piece.size());
  work.symbols.resize(piece.size());
  work.previous.resize(piece.size());
  work.next.resize(piece.size());
  work.pair.resize(piece.size());
  for (int32_t i = 0; i < n; ++i) {
    work.symbols[i] = byte_symbols_[static_cast<uint8_t>(piece[i])];
    work.previous[i] = i - 1;
    work.next[i] = i + 1 < n ? i + 1 : -1;
  }
  for (int32_t i = 0; i < n; ++i) queue_pair(i, work);
  merge_all(work);
  for (int32_t i = 0; i >= 0; i = work.next[i]) {
    if (work.symbols[i] < n_tokens()) {
      out.push_back(work.symbols[i]);
      continue;
    }
    const int32_t end = work.next[i] < 0 ? n : work.next[i];
    for (int32_t k = i; k < end; ++k) {
      const int32_t id = byte_symbols_[static_cast<uint8_t>(piece[k])];
      if (id < n_tokens()) out.push_back(id);
    }
  }
}

void BpeTokenizer::encode_fragment(std::string_view text, std::vector<int32_t>& out) const {
  Workspace work;
  for (const std::string_view piece : split_pieces(pre_rule_, text)) encode_piece(piece, work, out);
}

std::string BpeTokenizer::plain_piece(const std::string& token_text) const {
  std::string out;
  for (size_t i = 0; i < token_text.size();) {
    const Utf8Char c = next_char(token_text, i);
    const bool stands_for_byte =
        c.status == Utf8Status::kValid && c.code_point < kNumByteChars && char_bytes_[c.code_point] >= 0;
    if (stands_for_byte) {
      out += static_cast<char>(static_cast<uint8_t>(char_bytes_[c.code_point]));
    } else {
      out += token_text.substr(i, c.bytes);
    }
    i += c.bytes;
  }
  return out;
}

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(const VocabData& vocab, int64_t n_rows) {
  const PreTokenizer* pre = find_pre_tokenizer(vocab.pre);
  if (pre == nullptr) pre = find_pre_tokenizer("default");
  return std::make_unique<BpeTokenizer>(vocab, n_rows, *pre);
}

}  // namespace trimtok
