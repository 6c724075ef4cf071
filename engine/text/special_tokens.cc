#include "engine/text/special_tokens.h"

#include <algorithm>
#include <map>
#include <utility>

namespace trimtok {
namespace {

// C-locale white space, as the models' own code strips it.
bool ascii_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

}  // namespace

SpecialMatcher::SpecialMatcher(std::vector<SpecialToken> tokens) : tokens_(std::move(tokens)) {
  std::sort(tokens_.begin(), tokens_.end(), [](const SpecialToken& a, const SpecialToken& b) {
    return a.text.size() != b.text.size() ? a.text.size() > b.text.size() : a.id < b.id;
  });
  nodes_.emplace_back();
  for (size_t rank = 0; rank < tokens_.size(); ++rank) insert(static_cast<int32_t>(rank));
  link();
}

int32_t SpecialMatcher::child(int32_t node, uint8_t byte) const {
  if (node == 0) return roots_[byte];
  for (int32_t c = nodes_[node].first_child; c > 0; c = nodes_[c].next_sibling) {
    if (nodes_[c].byte == byte) return c;
  }
  return 0;
}

void SpecialMatcher::insert(int32_t rank) {
  int32_t node = 0;
  for (const char c : tokens_[rank].text) {
    const auto byte = static_cast<uint8_t>(c);
    int32_t next = child(node, byte);
    if (next == 0) {
      next = static_cast<int32_t>(nodes_.size());
      Node fresh;
      fresh.byte = byte;
      fresh.next_sibling = nodes_[node].first_child;
      nodes_.push_back(fresh);
      nodes_[node].first_child = next;
      if (node == 0) roots_[byte] = next;
    }
    node = next;
  }
  nodes_[node].token = rank;
}

int32_t SpecialMatcher::step(int32_t node, uint8_t byte) const {
  for (;;) {
    const int32_t next = child(node, byte);
    if (next != 0 || node == 0) return next;
    node = nodes_[node].fail;
  }
}

// Breadth first, so that a node's fail target, being shorter, is complete before the node.
void SpecialMatcher::link() {
  std::vector<int32_t> queue{0};
  for (size_t head = 0; head < queue.size(); ++head) {
    const int32_t node = queue[head];
    for (int32_t c = nodes_[node].first_child; c > 0; c = nodes_[c].next_sibling) {
      Node& n = nodes_[c];
      n.fail = node == 0 ? 0 : step(nodes_[node].fail, n.byte);
      n.shorter = nodes_[n.fail].token >= 0 ? n.fail : nodes_[n.fail].shorter;
      queue.push_back(c);
    }
  }
}

std::vector<SpecialMatch> SpecialMatcher::find(std::string_view text, bool parse_special) const {
  if (tokens_.empty()) return {};
  // The first node on the chain of suffixes, `node` included, whose token may be matched; 0: none.
  const auto usable = [&](int32_t node) {
    while (node != 0) {
      const int32_t rank = nodes_[node].token;
      if (rank >= 0 && (parse_special || tokens_[rank].always)) break;
      node = nodes_[node].shorter;
    }
    return node;
  };

  // Each end position waits under the rank of the longest token that may still end there. Ranks are worked
  // off in order; a token that does not fit makes room for the next shorter one, which has a later rank.
  struct Candidate {
    size_t end;
    int32_t node;
  };
  std::map<int32_t, std::vector<Candidate>> waiting;
  int32_t state = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    state = step(state, static_cast<uint8_t>(text[i]));
    if (const int32_t node = usable(state); node != 0) waiting[nodes_[node].token].push_back({i + 1, node});
  }

  std::vector<SpecialMatch> found;
  std::vector<bool> taken(waiting.empty() ? 0 : text.size(), false);
  while (!waiting.empty()) {
    auto batch = waiting.extract(waiting.begin());
    const SpecialToken& token = tokens_[batch.key()];
    std::sort(batch.mapped().begin(), batch.mapped().end(),
              [](const Candidate& a, const Candidate& b) { return a.end < b.end; });
    for (const Candidate& candidate : batch.mapped()) {
      const size_t end = candidate.end;
      const size_t begin = end - token.text.size();
      if (taken[end - 1]) continue;  // no shorter token can end here either
      // What was taken before is at least as long, so it cannot lie inside [begin, end) without touching an
      // end.
      if (taken[begin]) {
        const int32_t node = usable(nodes_[candidate.node].shorter);
        if (node != 0) waiting[nodes_[node].token].push_back({end, node});
        continue;
      }
      size_t next = end;
      while (token.strip_after && next < text.size() && !taken[next] && ascii_space(text[next])) ++next;
      std::fill(taken.begin() + static_cast<std::ptrdiff_t>(begin),
                taken.begin() + static_cast<std::ptrdiff_t>(next), true);
      found.push_back({begin, end, next, token.id});
    }
  }
  std::sort(found.begin(), found.end(),
            [](const SpecialMatch& a, const SpecialMatch& b) { return a.begin < b.begin; });
  return found;
}

}  // namespace trimtok
