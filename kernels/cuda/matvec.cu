// matmul of few rows with block formats: see matvec.cuh for who owns what. A lane owns a group of 32 elements
// at a time. Codes are multiplied with x unscaled and each group's sum is scaled once; mins meet the sum of
// x.
#include "kernels/cuda/matvec.cuh"

namespace trimtok::cuda {
namespace {

template <Dtype kType, bool kAligned, int kCols>
__global__ void __launch_bounds__(kVecThreads, 2) matvec_kernel(MatmulArgs a, VecShape shape) {
  GPU_DYN_SHARED(float, xs);
  GPU_SHARED(VecNorm<kCols>, norm, [1]);
  using G = Group<kType, kAligned>;
  const VecPlace place = vec_place(shape, kCols);
  start_norm<kCols>(a, place.col, norm[0]);
  float acc[kVecOutputs][kCols] = {};
  for (int64_t k0 = 0; k0 < a.x.cols; k0 += shape.piece) {
    const int64_t count = a.x.cols - k0 < shape.piece ? a.x.cols - k0 : shape.piece;
    stage_x<kCols>(a, shape, place.col, k0, count, norm[0], xs);
    for (int64_t g = place.part * kWarp + place.lane; g < count / 32; g += shape.split * kWarp) {
      G group[kVecOutputs];
#pragma unroll
      for (int i = 0; i < kVecOutputs; ++i) group[i].load(vec_row(a, place, i), k0 / 32 + g);
      float part[kVecOutputs][kCols] = {};
      float sum_x[kCols] = {};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float x[kCols][8];
#pragma unroll
        for (int c = 0; c < kCols; ++c) {
          const float* p = xs + c * padded(shape.piece) + 36 * g + 8 * j;
          load_dense8(p, x[c]);
          if constexpr (G::kHasMin) {
#pragma unroll
            for (int e = 0; e < 8; ++e) sum_x[c] += x[c][e];
          }
        }
#pragma unroll
        for (int i = 0; i < kVecOutputs; ++i) {
          float q[8];
          codes_of(group[i], j, q);
#pragma unroll
          for (int c = 0; c < kCols; ++c) {
#pragma unroll
            for (int e = 0; e < 8; ++e) part[i][c] = fmaf(q[e], x[c][e], part[i][c]);
          }
        }
        if (j == 3 || (j == 1 && G::kScales == 2)) {
          constexpr int kLast = G::kScales - 1;
          const int s = j == 3 ? kLast : 0;
#pragma unroll
          for (int c = 0; c < kCols; ++c) {
#pragma unroll
            for (int i = 0; i < kVecOutputs; ++i) {
              acc[i][c] = fmaf(group[i].scale[s], part[i][c], acc[i][c]);
              if constexpr (G::kHasMin) acc[i][c] = fmaf(group[i].min[s], sum_x[c], acc[i][c]);
              part[i][c] = 0.0f;
            }
            sum_x[c] = 0.0f;
          }
        }
      }
    }
  }
  finish_vec<kCols>(a, shape, place, norm[0], acc);
}

template <Dtype kType>
Status run(const ExecContext& ctx, const MatmulArgs& a) {
  if (!blocks_aligned(a.w)) return launch_vec<4>(matvec_kernel<kType, false, 4>, ctx, a);
  if (a.x.rows == 1) return launch_vec<1>(matvec_kernel<kType, true, 1>, ctx, a);
  return launch_vec<4>(matvec_kernel<kType, true, 4>, ctx, a);
}

}  // namespace

Status matvec(const ExecContext& ctx, const MatmulArgs& a) {
  switch (a.w.dtype) {
    case Dtype::kF32:
    case Dtype::kF16:
    case Dtype::kBF16:
      return matvec_dense(ctx, a);
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return run<Dtype::k##name>(ctx, a);
      TT_CUDA_BLOCK_TYPES(TT_CASE)
#undef TT_CASE
    default:
      return Status::kUnsupported;
  }
}

}  // namespace trimtok::cuda
