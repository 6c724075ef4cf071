// Three small kernels that use everything gpu.h offers, each sound or with one deliberate bug.
#pragma once

#include <cstdint>

#include "trimtok/kernels.h"

namespace trimtok::cuda::planted {

enum class Bug : int32_t {
  kNone,
  // sum
  kNoBarrier,           // partial sums are read before every warp has written its own
  kSharedOverrun,       // one element past the end of a shared array
  kDivergentBarrier,    // one warp goes around __syncthreads
  kFullMaskInFewLanes,  // a shuffle names lanes that are not there
  kFloatAtomics,        // the sum depends on the order of the blocks
  kUninitialised,       // shared memory is read that nobody wrote
  kDynamicOverrun,      // one element past the end of dynamic shared memory
  // gemm
  kSwappedLanes,        // two registers of an mma fragment exchanged
  kNoBarrierAtLoopEnd,  // the next tile overwrites what a slow warp still reads
  kLaxWait,             // one copy group too many may be under way
  kNoRowCheck,          // a tile at the edge writes beyond the matrix
  kNoWait,              // a thread leaves with copies under way
  kMisaligned,          // cp.async from an odd address
  // farthest
  kNoBarrierBeforeVote,  // the block's best is decided before all warps have said theirs
  kBarrierInBranch,      // the two sides of a branch meet at different barriers
  kCount
};
const char* name(Bug bug);

// *out = sum of x[0, n), added up in blocks of 128 threads; out and x on the device.
Status sum(const float* x, int32_t n, float* partial, float* out, void* stream, Bug bug);
inline constexpr int32_t kSumBlocks = 16;

// c [m, n] = a [m, k] . b [n, k]^T, f16 inputs, f32 result; k a multiple of 8.
Status gemm(const uint16_t* a, const uint16_t* b, float* c, int32_t m, int32_t n, int32_t k, void* stream,
            Bug bug);

// picked[0, count): each the row of x [n, d] farthest from those before it; ties to the lower index.
Status farthest(const float* x, int32_t n, int32_t d, int32_t count, int32_t* picked, void* stream, Bug bug);

}  // namespace trimtok::cuda::planted
