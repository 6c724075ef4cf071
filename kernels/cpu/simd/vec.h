// The vector verbs: only vec*.h and quants.inl.h name an intrinsic. Bodies are written once against these.
// Included inside an anonymous namespace, see bodies.inl.h; macros pick the ISA.
//
// Vf: kLanes x f32. Vm: a lane mask made by the compare verbs.
// Loads and stores are unaligned. The _n forms touch the first n elements only, 0 <= n <= kLanes, and load
// zeros into the rest. vmin/vmax: where a lane of either operand is NaN the result is the SECOND operand on
// x86 and NaN on NEON, so vmin(limit, x) keeps a NaN of x everywhere. Reductions of NaN: NaN for add,
// unspecified for max. exp, tanh, erf and the activations are in math.inl.h.

#if defined(__AVX512F__)
#include "kernels/cpu/simd/vec_avx512.h"
#elif defined(__AVX2__)
#include "kernels/cpu/simd/vec_avx2.h"
#elif defined(__ARM_NEON)
#include "kernels/cpu/simd/vec_neon.h"
#else
#error "vec.h: no SIMD flags for this file"
#endif

#if defined(__AVX2__)
TT_INLINE float vreduce_add(Vf v) {
  const __m256 w = vfold_add(v);
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
TT_INLINE float vreduce_max(Vf v) {
  const __m256 w = vfold_max(v);
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
#endif

// One f16 number at any address, through the hardware's conversion.
TT_INLINE float load_f16(const void* p) {
  uint16_t h;
  memcpy(&h, p, sizeof(h));
#if defined(__AVX2__)
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
#else
  return vgetq_lane_f32(vwiden_f16(vdup_n_u16(h)), 0);
#endif
}

// Asks for the cache line `offset` bytes after p, which may lie beyond the object: hence no pointer
// arithmetic.
TT_INLINE void prefetch(const void* p, int64_t offset = 0) {
  __builtin_prefetch(
      reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) + static_cast<uintptr_t>(offset)));
}

// Unrolls the next loop completely (trip count known at compile time).
#if defined(__clang__)
#define TT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TT_UNROLL _Pragma("GCC unroll 32")
#endif

// Transposes the kLanes x kLanes matrix whose rows are v[0 .. kLanes). vswap_pairs: lanes 2k and 2k + 1 trade
// places.
#if defined(__AVX512F__)
TT_INLINE void vtranspose(Vf* v) {
  TT_UNROLL
  for (int i = 0; i < 16; i += 2) {  // 2 x 2 inside each 128-bit quarter
    const Vf lo = _mm512_maskz_unpacklo_ps(0xffff, v[i], v[i + 1]);
    v[i + 1] = _mm512_maskz_unpackhi_ps(0xffff, v[i], v[i + 1]);
    v[i] = lo;
  }
  TT_UNROLL
  for (int i = 0; i < 16; i += 4) {  // 4 x 4: row i + j then holds, in each quarter q, column 4 q + j
    const __m512d a = _mm512_castps_pd(v[i]);
    const __m512d b = _mm512_castps_pd(v[i + 1]);
    const __m512d c = _mm512_castps_pd(v[i + 2]);
    const __m512d d = _mm512_castps_pd(v[i + 3]);
    v[i] = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, a, c));
    v[i + 1] = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, a, c));
    v[i + 2] = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, b, d));
    v[i + 3] = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, b, d));
  }
  TT_UNROLL
  for (int j = 0; j < 4; ++j) {  // quarters across the four row groups
    const Vf a = _mm512_maskz_shuffle_f32x4(0xffff, v[j], v[j + 4], 0x44);
    const Vf b = _mm512_maskz_shuffle_f32x4(0xffff, v[j], v[j + 4], 0xee);
    const Vf c = _mm512_maskz_shuffle_f32x4(0xffff, v[j + 8], v[j + 12], 0x44);
    const Vf d = _mm512_maskz_shuffle_f32x4(0xffff, v[j + 8], v[j + 12], 0xee);
    v[j] = _mm512_maskz_shuffle_f32x4(0xffff, a, c, 0x88);
    v[j + 4] = _mm512_maskz_shuffle_f32x4(0xffff, a, c, 0xdd);
    v[j + 8] = _mm512_maskz_shuffle_f32x4(0xffff, b, d, 0x88);
    v[j + 12] = _mm512_maskz_shuffle_f32x4(0xffff, b, d, 0xdd);
  }
}
TT_INLINE Vf vswap_pairs(Vf v) {
  return _mm512_maskz_permute_ps(0xffff, v, 0xb1);
}
#elif defined(__AVX2__)
TT_INLINE void vtranspose(Vf* v) {
  TT_UNROLL
  for (int i = 0; i < 8; i += 4) {  // 4 x 4: row i + j then holds, in each half h, column 4 h + j
    const Vf a = _mm256_unpacklo_ps(v[i], v[i + 1]);
    const Vf b = _mm256_unpackhi_ps(v[i], v[i + 1]);
    const Vf c = _mm256_unpacklo_ps(v[i + 2], v[i + 3]);
    const Vf d = _mm256_unpackhi_ps(v[i + 2], v[i + 3]);
    v[i] = _mm256_shuffle_ps(a, c, 0x44);
    v[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
    v[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
    v[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
  TT_UNROLL
  for (int j = 0; j < 4; ++j) {
    const Vf a = v[j];
    v[j] = _mm256_permute2f128_ps(a, v[j + 4], 0x20);
    v[j + 4] = _mm256_permute2f128_ps(a, v[j + 4], 0x31);
  }
}
TT_INLINE Vf vswap_pairs(Vf v) {
  return _mm256_permute_ps(v, 0xb1);
}
#else
TT_INLINE void vtranspose(Vf* v) {
  const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(v[0], v[1]));
  const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(v[0], v[1]));
  const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(v[2], v[3]));
  const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(v[2], v[3]));
  v[0] = vreinterpretq_f32_f64(vzip1q_f64(a, c));
  v[1] = vreinterpretq_f32_f64(vzip1q_f64(b, d));
  v[2] = vreinterpretq_f32_f64(vzip2q_f64(a, c));
  v[3] = vreinterpretq_f32_f64(vzip2q_f64(b, d));
}
TT_INLINE Vf vswap_pairs(Vf v) {
  return vrev64q_f32(v);
}
#endif

// Forces a lambda into its caller, as TT_INLINE does a function.
#define TT_LAMBDA_INLINE __attribute__((always_inline))

// Row r of a matrix of f32.
TT_INLINE float* f32_row(const Matrix& m, int64_t r) {
  return reinterpret_cast<float*>(static_cast<char*>(m.data) + r * m.stride);
}
TT_INLINE const float* f32_row(const ConstMatrix& m, int64_t r) {
  return reinterpret_cast<const float*>(static_cast<const char*>(m.data) + r * m.stride);
}

TT_INLINE int64_t imin(int64_t a, int64_t b) {
  return a < b ? a : b;
}
TT_INLINE int64_t imax(int64_t a, int64_t b) {
  return a > b ? a : b;
}
TT_INLINE constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
TT_INLINE constexpr int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}
