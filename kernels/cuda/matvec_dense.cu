// matmul of few rows with F32, F16 or BF16 weights: see matvec.cuh for who owns what. A lane owns eight
// neighbouring elements at a time where rows of w are aligned to 16 bytes, one otherwise.
#include "kernels/cuda/matvec.cuh"

namespace trimtok::cuda {
namespace {

// One block a multiprocessor is promised: without it ptxas saves registers on sm_86 and sm_89 until it
// spills.
template <Dtype kType, bool kEights, int kCols>
__global__ void __launch_bounds__(kVecThreads, 1) matvec_dense_kernel(MatmulArgs a, VecShape shape) {
  GPU_DYN_SHARED(float, xs);
  GPU_SHARED(VecNorm<kCols>, norm, [1]);
  using Element = typename DenseType<kType>::Element;
  constexpr int kStep = kEights ? 8 : 1;
  const VecPlace place = vec_place(shape, kCols);
  start_norm<kCols>(a, place.col, norm[0]);
  float acc[kVecOutputs][kCols] = {};
  for (int64_t k0 = 0; k0 < a.x.cols; k0 += shape.piece) {
    const int64_t count = a.x.cols - k0 < shape.piece ? a.x.cols - k0 : shape.piece;
    stage_x<kCols>(a, shape, place.col, k0, count, norm[0], xs);
#pragma unroll 2
    for (int64_t k = (place.part * kWarp + place.lane) * kStep; k < count; k += shape.split * kWarp * kStep) {
      float w[kVecOutputs][kStep];
#pragma unroll
      for (int i = 0; i < kVecOutputs; ++i) {
        const auto* row = reinterpret_cast<const Element*>(vec_row(a, place, i)) + k0 + k;
        if constexpr (kEights) {
          load_dense8(row, w[i]);
        } else {
          w[i][0] = dense_value(*row);
        }
      }
#pragma unroll
      for (int c = 0; c < kCols; ++c) {
        const float* p = xs + c * padded(shape.piece) + padded(k);
        float x[kStep];
        if constexpr (kEights) {
          load_dense8(p, x);
        } else {
          x[0] = *p;
        }
#pragma unroll
        for (int i = 0; i < kVecOutputs; ++i) {
#pragma unroll
          for (int e = 0; e < kStep; ++e) acc[i][c] = fmaf(w[i][e], x[e], acc[i][c]);
        }
      }
    }
  }
  finish_vec<kCols>(a, shape, place, norm[0], acc);
}

template <Dtype kType>
Status run(const ExecContext& ctx, const MatmulArgs& a) {
  const bool eights = a.w.cols % 8 == 0 && rows_aligned(a.w, 16);
  if (a.x.rows == 1) {
    return launch_vec<1>(eights ? matvec_dense_kernel<kType, true, 1> : matvec_dense_kernel<kType, false, 1>,
                         ctx, a);
  }
  return launch_vec<4>(eights ? matvec_dense_kernel<kType, true, 4> : matvec_dense_kernel<kType, false, 4>,
                       ctx, a);
}

}  // namespace

Status matvec_dense(const ExecContext& ctx, const MatmulArgs& a) {
  switch (a.w.dtype) {
    case Dtype::kF32:
      return run<Dtype::kF32>(ctx, a);
    case Dtype::kF16:
      return run<Dtype::kF16>(ctx, a);
    case Dtype::kBF16:
      return run<Dtype::kBF16>(ctx, a);
    default:
      return Status::kUnsupported;
  }
}

}  // namespace trimtok::cuda
