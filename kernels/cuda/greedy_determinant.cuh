// What a thread does for a row under kDeterminant: the same arithmetic as args.h has it, so the same picks as
// on the CPU.
#pragma once

#include "kernels/cuda/greedy.cuh"

namespace trimtok::cuda {

constexpr int kStaged = 16 * kFactorGroup;  // entries of the factor that a block shares at once

struct DeterminantRow {
  double gain;
  float nearest;
};

__device__ __forceinline__ double gain_left(double gain, float scale) {
  const double noise = kGainNoise * (static_cast<double>(scale) * scale);
  return gain > (noise > kLeastGain ? noise : kLeastGain) ? gain : 0.0;
}

// Before the first pick (t = 0), or as the call before has left it.
__device__ __forceinline__ DeterminantRow load_row(const GreedyProblem& p, int t, int i) {
  if (t > 0) return {p.gain[i], row_of<float>(p.state, 0)[i]};
  const float scale = p.scale[i];
  return {gain_left(static_cast<double>(scale) * scale, scale), -3.402823466e38f};
}

__device__ __forceinline__ void store_row(const GreedyProblem& p, int i, const DeterminantRow& row) {
  p.gain[i] = row.gain;
  row_of<float>(p.state, 0)[i] = row.nearest;
}

// Every gain comes before every similarity, whatever they are; gain_of undoes it: 0 for a similarity.
__device__ __forceinline__ BestOf<double> candidate(const DeterminantRow& row, int i) {
  return {row.gain > 0.0 ? -0x1p200 * row.gain : static_cast<double>(row.nearest), i};
}
__device__ __forceinline__ double gain_of(const BestOf<double>& best) {
  return best.value < -0x1p150 ? -0x1p-200 * best.value : 0.0;
}

// The value by which a row was picked.
__device__ __forceinline__ float score_of(const Best& best) {
  return best.value;
}
__device__ __forceinline__ float score_of(const BestOf<double>& best) {
  const double gain = gain_of(best);
  return static_cast<float>(gain > 0.0 ? gain : best.value);
}

// The sum over t picks of the entries of row i and of `pick`; 0 for threads whose row is not `wanted`. To be
// called by whole blocks; staged: shared, [kStaged]. Neighbouring threads read neighbouring addresses.
__device__ __forceinline__ float factor_dot(const GreedyProblem& p, int t, int i, bool wanted, int pick,
                                            float* staged) {
  float sum = 0.0f;
  for (int first = 0; first < t; first += kStaged) {
    const int n = min(kStaged, t - first);
    __syncthreads();  // what was staged before has been read
    for (int s = static_cast<int>(threadIdx.x); s < n; s += static_cast<int>(blockDim.x)) {
      staged[s] = row_of<float>(p.state, 1 + first + s)[pick];
    }
    __syncthreads();
    for (int group = 0; wanted && group < n; group += kFactorGroup) {
      float part = 0.0f;
      if (group + kFactorGroup <= n) {
#pragma unroll
        for (int u = 0; u < kFactorGroup; ++u) {
          part = fmaf(row_of<float>(p.state, 1 + first + group + u)[i], staged[group + u], part);
        }
      } else {
        for (int s = group; s < n; ++s) {
          part = fmaf(row_of<float>(p.state, 1 + first + s)[i], staged[s], part);
        }
      }
      sum += part;
    }
  }
  return sum;
}

// Takes pick t, whose row of gram is g, into row i: its entry of the factor, its gain, its nearest pick. dot:
// factor_dot; of a row without a gain neither that nor the entry will be read again.
__device__ __forceinline__ void take_pick(const GreedyProblem& p, int t, const BestOf<double>& pick,
                                          const float* g, float dot, int i, DeterminantRow& row) {
  const double gain = gain_of(pick);
  if (gain > 0.0 && row.gain > 0.0) {
    const float scale = p.scale[i];
    const auto root = static_cast<float>(sqrt(gain));
    const float e = fmaf(scale * p.scale[pick.index], g[i], -dot) / root;
    row_of<float>(p.state, 1 + t)[i] = e;
    row.gain = gain_left(row.gain - static_cast<double>(e) * e, scale);
  }
  if (i == pick.index) row = {-static_cast<double>(__int_as_float(0x7f800000)), __int_as_float(0x7f800000)};
  row.nearest = fmaxf(row.nearest, g[i]);
}

}  // namespace trimtok::cuda
