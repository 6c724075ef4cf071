// BlockAllocator against a plain list of what is in use.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <random>
#include <vector>

#include "check.h"
#include "engine/core/block_allocator.h"

namespace trimtok::test {
namespace {

// Segments from malloc, at most `limit` bytes of them.
struct Source {
  size_t limit;
  size_t held = 0;
  int calls = 0;
  BlockAllocator::Source functions() {
    return {[this](size_t bytes) -> void* {
              ++calls;
              if (bytes > limit - held) return nullptr;
              held += bytes;
              return std::aligned_alloc(BlockAllocator::kAlignment, bytes);
            },
            [this](void* p, size_t bytes) {
              held -= bytes;
              std::free(p);
            }};
  }
};

void random_use() {
  std::mt19937 rng(7);
  Source source{size_t{256} << 20};
  BlockAllocator blocks(source.functions());
  std::map<uintptr_t, size_t> in_use;
  size_t used = 0, refused = 0;
  for (int step = 0; step < 20000; ++step) {
    if (in_use.empty() || rng() % 100 < 55) {
      const size_t bytes = size_t{1} << (rng() % 25);
      const size_t wanted = bytes + rng() % bytes;
      void* p = blocks.allocate(wanted);
      if (p == nullptr) {
        ++refused;
        continue;
      }
      const auto at = reinterpret_cast<uintptr_t>(p);
      TT_EXPECT(at % BlockAllocator::kAlignment == 0);
      const auto next = in_use.lower_bound(at);
      TT_EXPECT(next == in_use.end() || at + wanted <= next->first);
      TT_EXPECT(next == in_use.begin() || std::prev(next)->first + std::prev(next)->second <= at);
      in_use[at] = wanted;
      used +=
          (wanted + BlockAllocator::kAlignment - 1) / BlockAllocator::kAlignment * BlockAllocator::kAlignment;
    } else {
      auto at = in_use.begin();
      std::advance(at, rng() % in_use.size());
      blocks.release(reinterpret_cast<void*>(at->first));
      used -= (at->second + BlockAllocator::kAlignment - 1) / BlockAllocator::kAlignment *
              BlockAllocator::kAlignment;
      in_use.erase(at);
    }
    TT_EXPECT(blocks.used() == used);
    TT_EXPECT(blocks.held() == source.held);
  }
  TT_EXPECT(refused > 0);  // the limit was met, and met again
  for (const auto& [at, bytes] : in_use) blocks.release(reinterpret_cast<void*>(at));
  TT_EXPECT(blocks.used() == 0);
}

// What comes back is used again, and its neighbours grow together.
void reuse() {
  Source source{size_t{1} << 30};
  {
    BlockAllocator blocks(source.functions());
    void* a = blocks.allocate(1000);
    void* b = blocks.allocate(1000);
    void* c = blocks.allocate(1000);
    TT_EXPECT(source.calls == 1);
    blocks.release(a);
    TT_EXPECT(blocks.allocate(900) == a);
    blocks.release(a);
    blocks.release(b);
    TT_EXPECT(blocks.allocate(2000) == a);
    blocks.release(a);
    blocks.release(c);
    TT_EXPECT(blocks.allocate(BlockAllocator::kSegment) == a);
    TT_EXPECT(source.calls == 1);
    blocks.release(a);
  }
  TT_EXPECT(source.held == 0);
}

// A segment without a use goes back when the source has nothing else.
void give_back() {
  Source source{size_t{64} << 20};
  BlockAllocator blocks(source.functions());
  void* small = blocks.allocate(1000);
  blocks.release(small);
  void* large = blocks.allocate(size_t{60} << 20);
  TT_EXPECT(large != nullptr);
  TT_EXPECT(blocks.allocate(size_t{60} << 20) == nullptr);
  TT_EXPECT(blocks.allocate(SIZE_MAX) == nullptr);
  blocks.release(large);
  TT_EXPECT(blocks.allocate(size_t{60} << 20) == large);
  blocks.release(large);
}

}  // namespace

void check_allocator() {
  random_use();
  reuse();
  give_back();
}

}  // namespace trimtok::test
