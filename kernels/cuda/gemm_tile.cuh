// What the tensor-core matmuls share: tiles of out, their sizes and launches, and what becomes of the sums.
// A block of four warps, two by two, owns a tile.
#pragma once

#include "kernels/cuda/matmul.cuh"

namespace trimtok::cuda {

constexpr int kGemmThreads = 128;
constexpr int kStages = 3;     // slices of x that are under way or in use
constexpr int64_t kPadK = 64;  // the longest K-slice; prepared rows of x are padded to a multiple of it

template <int kRows, int kCols, int kDepth>
struct TileShape {
  static constexpr int kM = kRows;
  static constexpr int kN = kCols;
  static constexpr int kK = kDepth;
  static constexpr int kWarpM = kRows / 2;  // of a warp
  static constexpr int kWarpN = kCols / 2;
};
using SmallTile = TileShape<64, 64, 64>;  // where larger ones would leave multiprocessors idle

template <typename Tile>
bool fills_device(const MatmulArgs& a) {
  return gpu::ceil_div(a.out.rows, Tile::kM) * gpu::ceil_div(a.out.cols, Tile::kN) >= 96;
}

template <typename Tile, typename... Params, typename... Args>
Status launch_tiles(void (*kernel)(Params...), size_t shared, const ExecContext& ctx, const MatmulArgs& a,
                    Args&&... args) {
  const int64_t tiles_m = gpu::ceil_div(a.out.rows, Tile::kM);
  const int64_t tiles_n = gpu::ceil_div(a.out.cols, Tile::kN);
  if (tiles_m > 0x7fffffff || tiles_n > 65535) {
    return gpu::fail(Status::kUnsupported, "matmul: more rows or outputs than one launch holds");
  }
  // Neighbouring blocks share weights, which come from DRAM; x stays in L2.
  const dim3 grid(static_cast<unsigned>(tiles_m), static_cast<unsigned>(tiles_n));
  return gpu::launch(kernel, grid, dim3(kGemmThreads), shared, ctx.stream, a, static_cast<Args&&>(args)...);
}

// Sums of a warp's tile, in the layout of mma, to out; scale_of(t) multiplies those of row t.
template <typename Tile, typename ScaleOf>
__device__ __forceinline__ void finish_tile(const MatmulArgs& a, int64_t m0, int64_t n0,
                                            const float (&acc)[Tile::kWarpM / 16][Tile::kWarpN / 8][4],
                                            ScaleOf scale_of) {
  const auto tid = static_cast<int>(threadIdx.x);
  const int lane = tid % kWarp;
  const int64_t t0 = m0 + tid / kWarp / 2 * Tile::kWarpM + lane / 4;
  const int64_t c0 = n0 + tid / kWarp % 2 * Tile::kWarpN + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < Tile::kWarpM / 16; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t t = t0 + m * 16 + half * 8;
      if (t >= a.out.rows) continue;
      const float scale = scale_of(t);
#pragma unroll
      for (int n = 0; n < Tile::kWarpN / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int64_t c = c0 + n * 8 + e;
          if (c < a.out.cols) finish_output(a, t, c, acc[m][n][2 * half + e] * scale);
        }
      }
    }
  }
}

}  // namespace trimtok::cuda
