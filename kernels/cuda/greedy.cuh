// What both greedy_pick kernels share: the order of candidates, and rows of gram that may be missing.
#pragma once

#include "kernels/cuda/device.cuh"

namespace trimtok::cuda {

constexpr int kNone = 0x7fffffff;

template <typename Value>  // float; kDeterminant: double
struct BestOf {
  Value value;
  int index;  // kNone: nothing but NaN
};
using Best = BestOf<float>;

template <typename Value = float>
__device__ __forceinline__ BestOf<Value> nothing() {
  return {__int_as_float(0x7f800000), kNone};
}

// The smaller value, or the lower index of equal ones. NaN loses.
template <typename Value>
__device__ __forceinline__ BestOf<Value> smaller(const BestOf<Value>& a, const BestOf<Value>& b) {
  return b.value < a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

// Over a block of whole warps; slots: shared, one a warp. Every thread gets the result.
template <typename Value>
__device__ __forceinline__ BestOf<Value> block_smallest(BestOf<Value> best, BestOf<Value>* slots) {
#pragma unroll
  for (int o = kWarp / 2; o > 0; o /= 2) {
    const BestOf<Value> other{__shfl_xor_sync(kAllLanes, best.value, o),
                              __shfl_xor_sync(kAllLanes, best.index, o)};
    best = smaller(best, other);
  }
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = best;
  __syncthreads();
  best = slots[0];
  for (unsigned w = 1; w < blockDim.x / kWarp; ++w) best = smaller(best, slots[w]);
  __syncthreads();
  return best;
}

enum class Found : int32_t { kRow, kMissing, kBroken };

__device__ __forceinline__ Found gram_row(const GreedyProblem& p, int i, const float** row) {
  const int64_t at = p.slot == nullptr ? i : p.slot[i];
  if (at < -1 || at >= p.gram.rows) return Found::kBroken;
  if (at < 0) return Found::kMissing;
  *row = row_of<float>(p.gram, at);
  return Found::kRow;
}

// Rows of a problem that one block keeps in shared memory: 44 KiB, what it may have without asking. Problems
// with more go to greedy_wide; but for kFacility, and for many picks from rows that may be missing: every
// launch behind the missing row would be for nothing, each time that the caller comes back. A pick of
// kDeterminant is worth a launch wherever a block has no thread for every row: it reads all of the factor.
constexpr int64_t kSharedRows = 11 * 1024;
constexpr int32_t kPicksWithGaps = 256;
constexpr unsigned kMostThreads = 1024;

inline bool is_wide(const GreedyPickArgs& a, int64_t b) {
  const GreedyProblem& p = a.problems[b];
  if (a.rule == GreedyRule::kDeterminant) return p.gram.cols > kMostThreads;
  const bool worth_it = p.slot == nullptr || p.count <= kPicksWithGaps;
  return p.gram.cols > kSharedRows && a.rule != GreedyRule::kFacility && worth_it;
}

// Picks of problem b by many blocks; scratch: kWideScratch bytes, free again for the next problem.
constexpr size_t kWideScratch = 16384;
Status greedy_wide(const ExecContext& ctx, const GreedyPickArgs& a, int64_t b, void* scratch);

}  // namespace trimtok::cuda
