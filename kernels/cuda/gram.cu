// gram: similarities of all pairs of rows, symmetric to the bit. In f32 FMA: the pruner ranks rows by
// differences of these numbers, which half-precision inputs would drown.
//
// A block owns one 64 x 64 tile on or above the diagonal (tile_f32.cuh) and writes it twice, mirrored.
// (last - first) T D FLOPs, half of what the full product takes; 8 bytes written per pair.
#include "kernels/cuda/tile_f32.cuh"

namespace trimtok::cuda {
namespace {

template <bool kPacks>
__global__ void __launch_bounds__(kTileThreads) gram_kernel(GramArgs a) {
  const int64_t i0 = a.first + static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t j0 = static_cast<int64_t>(blockIdx.x) * kTile;
  if (j0 + kTile <= i0) return;  // below the diagonal: some other tile's mirror image
  float acc[4][4] = {};
  multiply_tile<float, kPacks>(a.x, a.x, i0, j0, acc);
  const TilePlace place = tile_place();
#pragma unroll
  for (int di = 0; di < 4; ++di) {
#pragma unroll
    for (int dj = 0; dj < 4; ++dj) {
      const int64_t i = i0 + place.row + di;
      const int64_t j = j0 + place.col + dj;
      if (i < a.last && j < a.x.rows && j >= i) {
        row_of<float>(a.out, i)[j] = acc[di][dj];
        row_of<float>(a.out, j)[i] = acc[di][dj];
      }
    }
  }
}

}  // namespace

Status gram(const ExecContext& ctx, const GramArgs& a) {
  if (const Status s = check_gram_shapes(a); s != Status::kOk) return s;
  const int64_t tiles_i = gpu::ceil_div(a.last - a.first, kTile);
  const int64_t tiles_j = gpu::ceil_div(a.x.rows, kTile);
  if (tiles_i > 65535) return gpu::fail(Status::kUnsupported, "gram: more than 4194240 rows in one call");
  const dim3 grid(static_cast<unsigned>(tiles_j), static_cast<unsigned>(tiles_i));
  return gpu::launch(in_packs(a.x) ? gram_kernel<true> : gram_kernel<false>, grid, dim3(kTileThreads), 0,
                     ctx.stream, a);
}

}  // namespace trimtok::cuda
