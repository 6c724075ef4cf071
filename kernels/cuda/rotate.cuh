// Rotation on the device: rows of heads that are rotated as they are read.
#pragma once

#include "kernels/cuda/device.cuh"

namespace trimtok::cuda {

// R: how many elements of a head are rotated; 0: none.
__host__ __device__ __forceinline__ int32_t rotated_dims(const Rotation& r) {
  return r.cos.data == nullptr ? 0 : 2 * static_cast<int32_t>(r.cos.cols);
}

// A pair that is rotated by an angle.
__device__ __forceinline__ float rotated_u(float u, float v, float cos, float sin) {
  return u * cos - v * sin;
}
__device__ __forceinline__ float rotated_v(float u, float v, float cos, float sin) {
  return u * sin + v * cos;
}

// Element d of a head of row t that starts at x. Reads its partner too: neighbouring threads that own
// neighbouring elements meet it in L1.
__device__ __forceinline__ float rotated_element(const Rotation& r, int64_t t, const float* x, int32_t d) {
  const int32_t dims = rotated_dims(r);
  if (d >= dims) return x[d];
  const int32_t half = dims / 2;
  const bool adjacent = r.pairs == RopePairs::kAdjacent;
  const bool first = adjacent ? d % 2 == 0 : d < half;
  const int32_t k = adjacent ? d / 2 : first ? d : d - half;
  const int32_t apart = adjacent ? 1 : half;
  const float cos = row_of<float>(r.cos, t)[k];
  const float sin = row_of<float>(r.sin, t)[k];
  return first ? rotated_u(x[d], x[d + apart], cos, sin) : rotated_v(x[d - apart], x[d], cos, sin);
}

// Pairs k ... k + kPack - 1 of a head, as two runs of neighbouring elements.
template <int kPack>
struct Runs {
  Pack<kPack> low;
  Pack<kPack> high;
  int32_t low_at;  // their first elements
  int32_t high_at;
};

// Of row t, whose head starts at x, rotated; k a multiple of kPack.
template <int kPack>
__device__ __forceinline__ Runs<kPack> rotated_runs(const Rotation& r, int64_t t, const float* x, int32_t k) {
  const bool adjacent = r.pairs == RopePairs::kAdjacent;
  Runs<kPack> runs;
  runs.low_at = adjacent ? 2 * k : k;
  runs.high_at = adjacent ? 2 * k + kPack : static_cast<int32_t>(r.cos.cols) + k;
  const Pack<kPack> low = load_pack<kPack>(x + runs.low_at);
  const Pack<kPack> high = load_pack<kPack>(x + runs.high_at);
  const Pack<kPack> cos = load_pack<kPack>(row_of<float>(r.cos, t) + k);
  const Pack<kPack> sin = load_pack<kPack>(row_of<float>(r.sin, t) + k);
  if (adjacent && kPack > 1) {
#pragma unroll
    for (int e = 0; e < kPack; e += 2) {  // pairs lie within a run: the low one has the first half of them
      constexpr int kNext = kPack > 1 ? 1 : 0;
      const int i = e / 2;
      const int j = (kPack + e) / 2;
      runs.low.v[e] = rotated_u(low.v[e], low.v[e + kNext], cos.v[i], sin.v[i]);
      runs.low.v[e + kNext] = rotated_v(low.v[e], low.v[e + kNext], cos.v[i], sin.v[i]);
      runs.high.v[e] = rotated_u(high.v[e], high.v[e + kNext], cos.v[j], sin.v[j]);
      runs.high.v[e + kNext] = rotated_v(high.v[e], high.v[e + kNext], cos.v[j], sin.v[j]);
    }
  } else {
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      runs.low.v[e] = rotated_u(low.v[e], high.v[e], cos.v[e], sin.v[e]);
      runs.high.v[e] = rotated_v(low.v[e], high.v[e], cos.v[e], sin.v[e]);
    }
  }
  return runs;
}

}  // namespace trimtok::cuda
