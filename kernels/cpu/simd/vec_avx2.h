// The verbs of vec.h with AVX2, FMA and F16C.

constexpr int kLanes = 8;
using Vf = __m256;
using Vm = __m256;

TT_INLINE __m256i vfirst_bits(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}
TT_INLINE Vm vfirst(int64_t n) {
  return _mm256_castsi256_ps(vfirst_bits(n));
}  // lanes [0, n)

TT_INLINE Vf vzero() {
  return _mm256_setzero_ps();
}
TT_INLINE Vf vset1(float x) {
  return _mm256_set1_ps(x);
}
TT_INLINE Vf vload(const float* p) {
  return _mm256_loadu_ps(p);
}
TT_INLINE Vf vload_n(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, vfirst_bits(n));
}
TT_INLINE void vstore(float* p, Vf v) {
  _mm256_storeu_ps(p, v);
}
TT_INLINE void vstore_n(float* p, Vf v, int64_t n) {
  _mm256_maskstore_ps(p, vfirst_bits(n), v);
}

TT_INLINE Vf vadd(Vf a, Vf b) {
  return _mm256_add_ps(a, b);
}
TT_INLINE Vf vsub(Vf a, Vf b) {
  return _mm256_sub_ps(a, b);
}
TT_INLINE Vf vmul(Vf a, Vf b) {
  return _mm256_mul_ps(a, b);
}
TT_INLINE Vf vdiv(Vf a, Vf b) {
  return _mm256_div_ps(a, b);
}
TT_INLINE Vf vfma(Vf a, Vf b, Vf c) {
  return _mm256_fmadd_ps(a, b, c);
}  // a b + c
TT_INLINE Vf vfnma(Vf a, Vf b, Vf c) {
  return _mm256_fnmadd_ps(a, b, c);
}  // c - a b
TT_INLINE Vf vfms(Vf a, Vf b, Vf c) {
  return _mm256_fmsub_ps(a, b, c);
}  // a b - c
TT_INLINE Vf vmax(Vf a, Vf b) {
  return _mm256_max_ps(a, b);
}
TT_INLINE Vf vmin(Vf a, Vf b) {
  return _mm256_min_ps(a, b);
}
TT_INLINE Vf vsqrt(Vf a) {
  return _mm256_sqrt_ps(a);
}
TT_INLINE Vf vabs(Vf a) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
TT_INLINE Vf vneg(Vf a) {
  return _mm256_xor_ps(_mm256_set1_ps(-0.0f), a);
}
TT_INLINE Vf vcopysign(Vf magnitude, Vf sign) {
  const Vf bit = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
}
TT_INLINE Vf vround(Vf a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// x 2^n for integral n in [-252, 254], in two exact factors so that n may leave the exponent's range.
TT_INLINE Vf vscale2(Vf x, Vf n) {
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i i = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(i, 1);
  const __m256i rest = _mm256_sub_epi32(i, half);
  const Vf a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const Vf b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return _mm256_mul_ps(_mm256_mul_ps(x, a), b);
}

TT_INLINE Vm vlt(Vf a, Vf b) {
  return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
TT_INLINE Vm vge(Vf a, Vf b) {
  return _mm256_cmp_ps(a, b, _CMP_GE_OQ);
}
TT_INLINE Vf vselect(Vm m, Vf yes, Vf no) {
  return _mm256_blendv_ps(no, yes, m);
}
TT_INLINE bool vany(Vm m) {
  return _mm256_movemask_ps(m) != 0;
}

TT_INLINE __m256 vfold_add(Vf v) {
  return v;
}
TT_INLINE __m256 vfold_max(Vf v) {
  return v;
}

// Element conversions. p need not be aligned to the element.
TT_INLINE __m128i vload_u16_n(const uint16_t* p, int64_t n) {
  uint16_t part[8] = {};
  memcpy(part, p, sizeof(uint16_t) * static_cast<size_t>(n));
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(part));
}
TT_INLINE void vstore_u16_n(uint16_t* p, __m128i v, int64_t n) {
  uint16_t part[8];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(part), v);
  memcpy(p, part, sizeof(uint16_t) * static_cast<size_t>(n));
}
TT_INLINE Vf vload_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
TT_INLINE Vf vload_f16_n(const uint16_t* p, int64_t n) {
  return _mm256_cvtph_ps(vload_u16_n(p, n));
}
TT_INLINE Vf vwiden_bf16(__m128i h) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
TT_INLINE Vf vload_bf16(const uint16_t* p) {
  return vwiden_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
TT_INLINE Vf vload_bf16_n(const uint16_t* p, int64_t n) {
  return vwiden_bf16(vload_u16_n(p, n));
}
TT_INLINE Vf vload_i8(const int8_t* p) {
  const __m128i b = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b));
}
TT_INLINE void vstore_f16(uint16_t* p, Vf v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
TT_INLINE void vstore_f16_n(uint16_t* p, Vf v, int64_t n) {
  vstore_u16_n(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT), n);
}
// Round to nearest even; NaNs stay NaN and become quiet.
TT_INLINE __m128i vnarrow_bf16(Vf v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i r = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
TT_INLINE void vstore_bf16(uint16_t* p, Vf v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), vnarrow_bf16(v));
}
TT_INLINE void vstore_bf16_n(uint16_t* p, Vf v, int64_t n) {
  vstore_u16_n(p, vnarrow_bf16(v), n);
}
// Rounds to nearest even; |v| <= 127 is the caller's duty.
TT_INLINE void vstore_i8(int8_t* p, Vf v) {
  const __m256i i = _mm256_cvtps_epi32(v);
  const __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(w, w));
}
