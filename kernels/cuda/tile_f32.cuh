// One 64 x 64 tile of a . b^T in f32 FMA, for gemm_f32. Every sum runs over k in order in one accumulator.
//
// A block of 256 threads owns the tile, a thread 4 x 4 of it. Shared: two stages of 16 columns of both
// operands, transposed (17 KiB). Per tile and column of K: 512 bytes from L2 or DRAM, 8192 FLOPs.
#pragma once

#include "kernels/cuda/dequant.cuh"

namespace trimtok::cuda {

constexpr int kTile = 64;
constexpr int kTileK = 16;
constexpr int kTileThreads = 256;
constexpr int kTileStride = kTile + 4;  // keeps columns aligned to 16 bytes and off each other's banks

// A thread's place in the tile: rows [row, row + 4), columns [col, col + 4). A warp covers 32 x 16.
struct TilePlace {
  int row;
  int col;
};
__device__ __forceinline__ TilePlace tile_place() {
  const auto tid = static_cast<int>(threadIdx.x);
  const int warp = tid / kWarp;
  const int lane = tid % kWarp;
  return {32 * (warp / 4) + 4 * (lane / 4), 16 * (warp % 4) + 4 * (lane % 4)};
}

// acc[i][j] = map(a[m0 + row + i]) . b[n0 + col + j], b of dense elements; rows behind the last count as
// zeros. kPacks: in_packs() of both, f32. map_of(t) is what becomes of row t: map(value, k). It is also asked
// for the zeros behind the last k, and row 0's for the rows behind the last.
template <typename Element, bool kPacks, typename MapOf>
__device__ __forceinline__ void multiply_tile(const ConstMatrix& a, const ConstMatrix& b, int64_t m0,
                                              int64_t n0, MapOf map_of, float (&acc)[4][4]) {
  GPU_SHARED(float, sa, [2][kTileK][kTileStride]);
  GPU_SHARED(float, sb, [2][kTileK][kTileStride]);
  const auto tid = static_cast<int>(threadIdx.x);
  const TilePlace place = tile_place();
  // What this thread loads: four columns of one row of each operand.
  const int row = tid / 4;
  const int k4 = 4 * (tid % 4);
  const bool a_there = m0 + row < a.rows;
  const bool b_there = n0 + row < b.rows;
  const float* pa = row_of<float>(a, a_there ? m0 + row : 0);
  const auto map = map_of(a_there ? m0 + row : 0);
  const Element* pb = row_of<Element>(b, b_there ? n0 + row : 0);
  Pack<4> next_a;
  Pack<4> next_b;
  const auto fetch = [&](int64_t k0) {
    if constexpr (kPacks) {
      const bool inside = k0 + k4 < a.cols;
      next_a = a_there && inside ? load_pack<4>(pa + k0 + k4) : Pack<4>{};
      next_b = b_there && inside ? load_pack<4>(pb + k0 + k4) : Pack<4>{};
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const bool inside = k0 + k4 + e < a.cols;
        next_a.v[e] = a_there && inside ? pa[k0 + k4 + e] : 0.0f;
        next_b.v[e] = b_there && inside ? dense_value(pb[k0 + k4 + e]) : 0.0f;
      }
    }
  };
  const auto put = [&](int stage, int64_t k0) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      sa[stage][k4 + e][row] = map(next_a.v[e], k0 + k4 + e);
      sb[stage][k4 + e][row] = next_b.v[e];
    }
  };
  fetch(0);
  put(0, 0);
  __syncthreads();
  int stage = 0;
  for (int64_t k0 = 0; k0 < a.cols; k0 += kTileK) {
    const bool more = k0 + kTileK < a.cols;
    if (more) fetch(k0 + kTileK);
#pragma unroll
    for (int k = 0; k < kTileK; ++k) {
      const Pack<4> va = load_pack<4>(&sa[stage][k][place.row]);
      const Pack<4> vb = load_pack<4>(&sb[stage][k][place.col]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[i][j] = fmaf(va.v[i], vb.v[j], acc[i][j]);
      }
    }
    if (!more) break;
    put(stage ^ 1, k0 + kTileK);  // last read before the barrier that opened this stage
    __syncthreads();
    stage ^= 1;
  }
}

}  // namespace trimtok::cuda
