// Finds special tokens written in a text (spec 10.1).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace trimtok {

struct SpecialToken {
  int32_t id = -1;
  std::string_view text;     // not empty, valid UTF-8, unique; must outlive the matcher
  bool always = false;       // user-defined: matched even without parse_special
  bool strip_after = false;  // white space after it is dropped
};

struct SpecialMatch {
  size_t begin = 0;
  size_t end = 0;   // of the token's text
  size_t next = 0;  // where the text goes on, behind dropped white space
  int32_t id = -1;
};

// Gives what repeated splitting gives (for each token, longest first and lowest id first among equals: take
// every occurrence that is still raw text, left to right), in one pass over the text plus a sort of its
// matches.
class SpecialMatcher {
 public:
  SpecialMatcher() = default;
  explicit SpecialMatcher(std::vector<SpecialToken> tokens);

  // In text order, not overlapping.
  std::vector<SpecialMatch> find(std::string_view text, bool parse_special) const;

 private:
  // A node of the Aho-Corasick automaton over the token texts.
  struct Node {
    int32_t first_child = -1;
    int32_t next_sibling = -1;
    int32_t fail = 0;     // the longest proper suffix that is a node
    int32_t token = -1;   // rank of the token that ends here
    int32_t shorter = 0;  // nearest node on the fail chain with a token; 0: none
    uint8_t byte = 0;
  };
  int32_t child(int32_t node, uint8_t byte) const;
  int32_t step(int32_t node, uint8_t byte) const;
  void insert(int32_t rank);
  void link();

  std::vector<SpecialToken> tokens_;  // by rank: longest first
  std::vector<Node> nodes_;
  std::array<int32_t, 256> roots_{};  // children of the root, 0: none
};

}  // namespace trimtok
