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

constexpr unsigned kStatsThreads = 256;

// A block owns a row: 4 bytes read per element (kLayer: again from L1), 8 written per row.
__global__ void __launch_bounds__(kStatsThreads) stats_kernel(ConstMatrix x, RowNorm norm, RowStats* out) {
  GPU_SHARED(float, slots, [kStatsThreads / kWarp]);
  const int64_t t = blockIdx.x;
  const RowStats stats = stats_of_row(norm, row_of<float>(x, t), x.cols, slots);
  if (threadIdx.x == 0) out[t] = stats;
}

// kNorm: rows of x are normalised as they go to shared memory; stats has their means and scales.
template <typename Element, bool kPacks, bool kNorm>
__global__ void __launch_bounds__(kTileThreads) gemm_f32_kernel(MatmulArgs a, const RowStats* stats) {
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t n0 = static_cast<int64_t>(blockIdx.x) * kTile;
  float acc[4][4] = {};
  const auto map_of = [&](int64_t t) {
    if constexpr (kNorm) {
      return [&a, of_row = stats[t]](float x, int64_t k) {
        return k < a.x.cols ? normalised(a.norm, of_row, x, k) : 0.0f;
      };
    } else {
      return [](float x, int64_t) { return x; };
    }
  };
  multiply_tile<Element, kPacks>(a.x, a.w, m0, n0, map_of, acc);
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

using Kernel = void (*)(MatmulArgs, const RowStats*);

template <bool kNorm>
Kernel kernel_for(const MatmulArgs& a) {
  if (a.w.dtype == Dtype::kBF16) return gemm_f32_kernel<__nv_bfloat16, false, kNorm>;
  return in_packs(a.x) && in_packs(a.w) ? gemm_f32_kernel<float, true, kNorm>
                                        : gemm_f32_kernel<float, false, kNorm>;
}

}  // namespace

Status gemm_f32(const ExecContext& ctx, const MatmulArgs& a) {
  const int64_t tiles_t = gpu::ceil_div(a.out.rows, kTile);
  const int64_t tiles_n = gpu::ceil_div(a.out.cols, kTile);
  if (tiles_t > 65535 || tiles_n > 0x7fffffff) {
    return gpu::fail(Status::kUnsupported, "matmul: more rows or outputs than one launch holds");
  }
  const dim3 grid(static_cast<unsigned>(tiles_n), static_cast<unsigned>(tiles_t));
  RowStats* stats = nullptr;
  if (a.norm.kind != RowNorm::Kind::kNone) {
    stats = static_cast<RowStats*>(get_scratch(ctx, static_cast<size_t>(a.x.rows) * sizeof(RowStats)));
    if (stats == nullptr) return Status::kOutOfMemory;
    const Status s = launch_rows(stats_kernel, a.x.rows, 1, row_threads(a.x.cols, kStatsThreads), 0, ctx, a.x,
                                 a.norm, stats);
    if (s != Status::kOk) return s;
  }
  return gpu::launch(stats == nullptr ? kernel_for<false>(a) : kernel_for<true>(a), grid, dim3(kTileThreads),
                     0, ctx.stream, a, stats);
}

}  // namespace trimtok::cuda
