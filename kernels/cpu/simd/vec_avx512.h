// The verbs of vec.h with AVX-512 F/BW/DQ/VL. Full zero-masks stand where the plain intrinsic would read an
// undefined register in GCC 12's headers (-Wuninitialized).

constexpr int kLanes = 16;
using Vf = __m512;
using Vm = __mmask16;

TT_INLINE Vm vfirst(int64_t n) {
  return static_cast<Vm>((1u << n) - 1u);
}  // lanes [0, n)

TT_INLINE Vf vzero() {
  return _mm512_setzero_ps();
}
TT_INLINE Vf vset1(float x) {
  return _mm512_set1_ps(x);
}
TT_INLINE Vf vload(const float* p) {
  return _mm512_loadu_ps(p);
}
TT_INLINE Vf vload_n(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(vfirst(n), p);
}
TT_INLINE void vstore(float* p, Vf v) {
  _mm512_storeu_ps(p, v);
}
TT_INLINE void vstore_n(float* p, Vf v, int64_t n) {
  _mm512_mask_storeu_ps(p, vfirst(n), v);
}

TT_INLINE Vf vadd(Vf a, Vf b) {
  return _mm512_add_ps(a, b);
}
TT_INLINE Vf vsub(Vf a, Vf b) {
  return _mm512_sub_ps(a, b);
}
TT_INLINE Vf vmul(Vf a, Vf b) {
  return _mm512_mul_ps(a, b);
}
TT_INLINE Vf vdiv(Vf a, Vf b) {
  return _mm512_div_ps(a, b);
}
TT_INLINE Vf vfma(Vf a, Vf b, Vf c) {
  return _mm512_fmadd_ps(a, b, c);
}  // a b + c
TT_INLINE Vf vfnma(Vf a, Vf b, Vf c) {
  return _mm512_fnmadd_ps(a, b, c);
}  // c - a b
TT_INLINE Vf vfms(Vf a, Vf b, Vf c) {
  return _mm512_fmsub_ps(a, b, c);
}  // a b - c
TT_INLINE Vf vmax(Vf a, Vf b) {
  return _mm512_maskz_max_ps(0xffff, a, b);
}
TT_INLINE Vf vmin(Vf a, Vf b) {
  return _mm512_maskz_min_ps(0xffff, a, b);
}
TT_INLINE Vf vsqrt(Vf a) {
  return _mm512_maskz_sqrt_ps(0xffff, a);
}
TT_INLINE Vf vabs(Vf a) {
  return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a);
}
TT_INLINE Vf vneg(Vf a) {
  return _mm512_xor_ps(_mm512_set1_ps(-0.0f), a);
}
TT_INLINE Vf vcopysign(Vf magnitude, Vf sign) {
  const Vf bit = _mm512_set1_ps(-0.0f);
  return _mm512_or_ps(_mm512_andnot_ps(bit, magnitude), _mm512_and_ps(bit, sign));
}
TT_INLINE Vf vround(Vf a) {
  return _mm512_maskz_roundscale_ps(0xffff, a, _MM_FROUND_TO_NEAREST_INT);
}
// x 2^n for integral n in [-252, 254].
TT_INLINE Vf vscale2(Vf x, Vf n) {
  return _mm512_maskz_scalef_ps(0xffff, x, n);
}

TT_INLINE Vm vlt(Vf a, Vf b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
TT_INLINE Vm vge(Vf a, Vf b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
TT_INLINE Vf vselect(Vm m, Vf yes, Vf no) {
  return _mm512_mask_blend_ps(m, no, yes);
}
TT_INLINE bool vany(Vm m) {
  return m != 0;
}

TT_INLINE __m256 vfold_add(Vf v) {
  return _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, v, 0), _mm512_extractf32x8_ps(v, 1));
}
TT_INLINE __m256 vfold_max(Vf v) {
  return _mm256_max_ps(_mm512_maskz_extractf32x8_ps(0xff, v, 0), _mm512_extractf32x8_ps(v, 1));
}

// Element conversions. p need not be aligned to the element.
TT_INLINE Vf vload_f16(const uint16_t* p) {
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
TT_INLINE Vf vload_f16_n(const uint16_t* p, int64_t n) {
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_maskz_loadu_epi16(vfirst(n), p));
}
TT_INLINE Vf vwiden_bf16(__m256i h) {
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, h), 16));
}
TT_INLINE Vf vload_bf16(const uint16_t* p) {
  return vwiden_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
TT_INLINE Vf vload_bf16_n(const uint16_t* p, int64_t n) {
  return vwiden_bf16(_mm256_maskz_loadu_epi16(vfirst(n), p));
}
TT_INLINE Vf vload_i8(const int8_t* p) {
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, b));
}
TT_INLINE __m256i vnarrow_f16(Vf v) {
  return _mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT);
}
TT_INLINE void vstore_f16(uint16_t* p, Vf v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), vnarrow_f16(v));
}
TT_INLINE void vstore_f16_n(uint16_t* p, Vf v, int64_t n) {
  _mm256_mask_storeu_epi16(p, vfirst(n), vnarrow_f16(v));
}
// Round to nearest even; NaNs stay NaN and become quiet.
TT_INLINE __m256i vnarrow_bf16(Vf v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_maskz_srli_epi32(0xffff, bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i r = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), up, quiet);
  return _mm512_maskz_cvtepi32_epi16(0xffff, _mm512_maskz_srli_epi32(0xffff, r, 16));
}
TT_INLINE void vstore_bf16(uint16_t* p, Vf v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), vnarrow_bf16(v));
}
TT_INLINE void vstore_bf16_n(uint16_t* p, Vf v, int64_t n) {
  _mm256_mask_storeu_epi16(p, vfirst(n), vnarrow_bf16(v));
}
// Rounds to nearest even; |v| <= 127 is the caller's duty.
TT_INLINE void vstore_i8(int8_t* p, Vf v) {
  const __m128i b = _mm512_maskz_cvtsepi32_epi8(0xffff, _mm512_maskz_cvtps_epi32(0xffff, v));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), b);
}
