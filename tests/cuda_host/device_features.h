// What device code can ask of the execution layer, checked against values that are known without it.
#pragma once

#include <cstdint>

#include "trimtok/kernels.h"

namespace trimtok::cuda::features {

inline constexpr int32_t kVotes = 12;  // numbers that votes() writes per thread
Status votes(int32_t* out, int32_t threads, void* stream);

struct Atomics {
  int32_t largest;
  uint32_t count;
  int32_t first;  // by compare and swap
  uint32_t bits;
};
Status atomics(Atomics* out, int32_t blocks, int32_t threads, void* stream);

Status halves(float* out, void* stream);            // 3 numbers
Status unwritten_shared(float* out, void* stream);  // 64 numbers, all but the first never written
Status integer_dots(int32_t* out, void* stream);    // 3 numbers

// One mma of a warp: fragments as 4 + 2 words a lane, result as 4 words a lane, accumulated on what is there.
// kS8K16 uses the first 2 + 1.
enum class Mma : int32_t { kF16, kBf16, kTf32, kS8, kS8K16 };
Status mma(Mma kind, const uint32_t* a, const uint32_t* b, uint32_t* d, void* stream);

// Four 8 x 8 matrices of 16-bit words that lie one behind the other, through ldmatrix; 4 words a lane.
Status matrices(const uint16_t* in, uint32_t* out, bool transposed, void* stream);

Status add_one(int32_t* x, int32_t n, void* stream);
Status too_many_threads(void* stream);
Status too_much_shared(void* stream);
Status split_masks(int32_t* out, void* stream);  // half a warp waits for the other half under another mask

}  // namespace trimtok::cuda::features
