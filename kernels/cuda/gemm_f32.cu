// matmul of many rows with dense weights in f32 throughout: F32, and BF16 on a device whose tensor cores do
// not take it (sm_75). A block owns a 64 x 64 tile of out, see tile_f32.cuh; 2 T N K FLOPs on the FMA units.
//
// Not on tensor cores. Digits with a scale a row, as gram has them, err by 2^-24 of max|x| |w|: too much
// where an outlier of x meets a small weight, since matmul answers for |x_k w_k| one by one. High and low
// halves in f16 keep that, and their three products take a GeForce longer than FMA does. Few tensors are
// stored as F32.
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/tile_f32.cuh"

namespace trimtok::cuda {
namespace {

template <typename Element, bool kPacks>
__global__ void __launch_bounds__(kTileThreads) gemm_f32_kernel(MatmulArgs a) {
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t n0 = static_cast<int64_t>(blockIdx.x) * kTile;
  float acc[4][4] = {};
  multiply_tile<Element, kPacks>(a.x, a.w, m0, n0, acc);
  const TilePlace place = tile_place();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t t = m0 + place.row + i;
      const int64_t n = n0 + place.col + j;
      if (t < a.out.rows && n < a.out.cols) finish_output(a, t, n, acc[i][j]);
    }
  }
}

}  // namespace

Status gemm_f32(const ExecContext& ctx, const MatmulArgs& a) {
  const int64_t tiles_t = gpu::ceil_div(a.out.rows, kTile);
  const int64_t tiles_n = gpu::ceil_div(a.out.cols, kTile);
  if (tiles_t > 65535 || tiles_n > 0x7fffffff) {
    return gpu::fail(Status::kUnsupported, "matmul: more rows or outputs than one launch holds");
  }
  const dim3 grid(static_cast<unsigned>(tiles_n), static_cast<unsigned>(tiles_t));
  auto* kernel = gemm_f32_kernel<float, false>;
  if (a.w.dtype == Dtype::kF32 && in_packs(a.x) && in_packs(a.w)) kernel = gemm_f32_kernel<float, true>;
  if (a.w.dtype == Dtype::kBF16) kernel = gemm_f32_kernel<__nv_bfloat16, false>;
  return gpu::launch(kernel, grid, dim3(kTileThreads), 0, ctx.stream, a);
}

}  // namespace trimtok::cuda
