// RowNorm on the device: for the ops of that name, and for what becomes of a row of x before a product takes
// it.
//
// A normalised element is (x - mean) scale weight + bias; without a norm mean is 0 and scale 1, which changes
// nothing. matmul.cu clears weight and bias where there is no norm.
#pragma once

#include "kernels/cuda/device.cuh"

namespace trimtok::cuda {

struct RowStats {
  float mean;
  float scale;
};
constexpr RowStats kAsItIs{0.0f, 1.0f};

__device__ __forceinline__ float scale_of(const RowNorm& norm, float squares, int64_t n) {
  return 1.0f / sqrtf(squares / static_cast<float>(n) + norm.eps);
}

// Of a row of n elements, by a block of whole warps, which all call it; slots: as in block_sum(). One pass
// over the row, kLayer two: the variance is taken around the mean, because E[x^2] - E[x]^2 loses every digit
// where the mean is large. kPack: elements that are read at once, a divisor of n.
template <int kPack = 1>
__device__ __forceinline__ RowStats stats_of_row(const RowNorm& norm, const float* row, int64_t n,
                                                 float* slots) {
  if (norm.kind == RowNorm::Kind::kNone) return kAsItIs;
  const int64_t first = static_cast<int64_t>(threadIdx.x) * kPack;
  const int64_t step = static_cast<int64_t>(blockDim.x) * kPack;
  float mean = 0.0f;
  if (norm.kind == RowNorm::Kind::kLayer) {
    float sum = 0.0f;
    for (int64_t i = first; i < n; i += step) {
      const Pack<kPack> v = load_pack<kPack>(row + i);
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum += v.v[e];
    }
    mean = block_sum(sum, slots) / static_cast<float>(n);
  }
  float squares = 0.0f;
  for (int64_t i = first; i < n; i += step) {
    const Pack<kPack> v = load_pack<kPack>(row + i);
#pragma unroll
    for (int e = 0; e < kPack; ++e) squares = fmaf(v.v[e] - mean, v.v[e] - mean, squares);
  }
  return {mean, scale_of(norm, block_sum(squares, slots), n)};
}

// Element i of a row, normalised.
__device__ __forceinline__ float normalised(const RowNorm& norm, const RowStats& stats, float x, int64_t i) {
  float v = (x - stats.mean) * stats.scale;
  if (norm.weight != nullptr) v *= norm.weight[i];
  if (norm.bias != nullptr) v += norm.bias[i];
  return v;
}

}  // namespace trimtok::cuda
