// What both attention kernels share: which takes a call, and stored keys and values as f32.
//
// The choice (attention.cu), by shape: T <= kFewRows goes to attention_few (f32 throughout, the keys split
// over blocks), more rows to attention_many (tensor cores). What E the latter has no room for goes to
// attention_few too: above 256 of registers, on sm_75 above 128 of shared memory.
#pragma once

#include "kernels/cuda/dequant.cuh"

namespace trimtok::cuda {

constexpr int64_t kFewRows = 8;
constexpr int kMaxHeadDim = 512;

Status attention_few(const ExecContext& ctx, const AttentionArgs& a);
Status attention_many(const ExecContext& ctx, const AttentionArgs& a);

// The keys that row t sees. !sane: the interval breaks the contract, and the row of out becomes NaN.
struct Interval {
  int64_t begin;
  int64_t end;
  bool sane;
};
__device__ __forceinline__ Interval interval_of(const AttentionArgs& a, int64_t t) {
  const int64_t begin = a.begin[t];
  const int64_t end = a.end[t];
  const bool sane = begin >= 0 && begin <= end && end <= a.k.rows;
  return {sane ? begin : 0, sane ? end : 0, sane};
}

// One head's slice of a stored row starts here: element 0 of head `head`.
__device__ __forceinline__ const uint8_t* head_slice(const ConstMatrix& m, int64_t s, int64_t head,
                                                     int head_dim) {
  const int64_t offset = head * head_dim;
  const int64_t bytes = m.dtype == Dtype::kF32    ? 4 * offset
                        : m.dtype == Dtype::kQ8_0 ? offset / 32 * BlockBytes<Dtype::kQ8_0>::value
                                                  : 2 * offset;
  return row_of<uint8_t>(m, s) + bytes;
}

// Element i of a slice.
__device__ __forceinline__ float stored_value(Dtype dtype, const uint8_t* slice, int i) {
  switch (dtype) {
    case Dtype::kF16:
      return __half2float(reinterpret_cast<const __half*>(slice)[i]);
    case Dtype::kBF16:
      return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(slice)[i]);
    case Dtype::kQ8_0: {
      const uint8_t* b = slice + i / 32 * BlockBytes<Dtype::kQ8_0>::value;
      return half_bits(load_u16<1>(b)) * static_cast<float>(static_cast<int8_t>(b[2 + i % 32]));
    }
    default:
      return reinterpret_cast<const float*>(slice)[i];
  }
}

// Elements i ... i + 7 of a slice, i a multiple of 8, zeros from n on. `eights`: see stored_in_eights().
__device__ __forceinline__ void stored_eight(Dtype dtype, const uint8_t* slice, int i, int n, bool eights,
                                             float (&v)[8]) {
  if (dtype == Dtype::kQ8_0) {
    const uint8_t* b = slice + i / 32 * BlockBytes<Dtype::kQ8_0>::value;
    const float d = half_bits(load_u16<1>(b));
    uint32_t w[2];
    load_words<1>(b + 2 + i % 32, w);
    byte_codes(w[0] ^ 0x80808080u, w[1] ^ 0x80808080u, 128.0f, v);
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] *= d;
  } else if (!eights) {
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] = i + e < n ? stored_value(dtype, slice, i + e) : 0.0f;
  } else if (dtype == Dtype::kF16) {
    load_dense8(reinterpret_cast<const __half*>(slice) + i, v);
  } else if (dtype == Dtype::kBF16) {
    load_dense8(reinterpret_cast<const __nv_bfloat16*>(slice) + i, v);
  } else {
    load_dense8(reinterpret_cast<const float*>(slice) + i, v);
  }
}

// Whether stored_eight may use 16-byte loads.
inline bool stored_in_eights(const ConstMatrix& m, int head_dim) {
  return head_dim % 8 == 0 && rows_aligned(m, 16);
}

// The scaled score with its soft cap.
__device__ __forceinline__ float capped(float score, float softcap) {
  return softcap > 0.0f ? softcap * tanhf(score / softcap) : score;
}

}  // namespace trimtok::cuda
