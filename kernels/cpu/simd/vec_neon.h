// The verbs of vec.h with AArch64 Advanced SIMD.

constexpr int kLanes = 4;
using Vf = float32x4_t;
using Vm = uint32x4_t;

TT_INLINE Vm vfirst(int64_t n) {  // lanes [0, n)
  const uint32_t lane[4] = {0, 1, 2, 3};
  return vcltq_u32(vld1q_u32(lane), vdupq_n_u32(static_cast<uint32_t>(n)));
}

TT_INLINE Vf vzero() {
  return vdupq_n_f32(0.0f);
}
TT_INLINE Vf vset1(float x) {
  return vdupq_n_f32(x);
}
TT_INLINE Vf vload(const float* p) {
  return vld1q_f32(p);
}
TT_INLINE Vf vload_n(const float* p, int64_t n) {
  float part[4] = {};
  memcpy(part, p, sizeof(float) * static_cast<size_t>(n));
  return vld1q_f32(part);
}
TT_INLINE void vstore(float* p, Vf v) {
  vst1q_f32(p, v);
}
TT_INLINE void vstore_n(float* p, Vf v, int64_t n) {
  float part[4];
  vst1q_f32(part, v);
  memcpy(p, part, sizeof(float) * static_cast<size_t>(n));
}

TT_INLINE Vf vadd(Vf a, Vf b) {
  return vaddq_f32(a, b);
}
TT_INLINE Vf vsub(Vf a, Vf b) {
  return vsubq_f32(a, b);
}
TT_INLINE Vf vmul(Vf a, Vf b) {
  return vmulq_f32(a, b);
}
TT_INLINE Vf vdiv(Vf a, Vf b) {
  return vdivq_f32(a, b);
}
TT_INLINE Vf vfma(Vf a, Vf b, Vf c) {
  return vfmaq_f32(c, a, b);
}  // a b + c
TT_INLINE Vf vfnma(Vf a, Vf b, Vf c) {
  return vfmsq_f32(c, a, b);
}  // c - a b
TT_INLINE Vf vfms(Vf a, Vf b, Vf c) {
  return vfmaq_f32(vnegq_f32(c), a, b);
}  // a b - c
TT_INLINE Vf vmax(Vf a, Vf b) {
  return vmaxq_f32(a, b);
}
TT_INLINE Vf vmin(Vf a, Vf b) {
  return vminq_f32(a, b);
}
TT_INLINE Vf vsqrt(Vf a) {
  return vsqrtq_f32(a);
}
TT_INLINE Vf vabs(Vf a) {
  return vabsq_f32(a);
}
TT_INLINE Vf vneg(Vf a) {
  return vnegq_f32(a);
}
TT_INLINE Vf vcopysign(Vf magnitude, Vf sign) {
  return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude);
}
TT_INLINE Vf vround(Vf a) {
  return vrndnq_f32(a);
}
// x 2^n for integral n in [-252, 254], in two exact factors so that n may leave the exponent's range.
TT_INLINE Vf vscale2(Vf x, Vf n) {
  const int32x4_t bias = vdupq_n_s32(127);
  const int32x4_t i = vcvtnq_s32_f32(n);
  const int32x4_t half = vshrq_n_s32(i, 1);
  const int32x4_t rest = vsubq_s32(i, half);
  const Vf a = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
  const Vf b = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23));
  return vmulq_f32(vmulq_f32(x, a), b);
}

TT_INLINE Vm vlt(Vf a, Vf b) {
  return vcltq_f32(a, b);
}
TT_INLINE Vm vge(Vf a, Vf b) {
  return vcgeq_f32(a, b);
}
TT_INLINE Vf vselect(Vm m, Vf yes, Vf no) {
  return vbslq_f32(m, yes, no);
}
TT_INLINE bool vany(Vm m) {
  return vmaxvq_u32(m) != 0;
}

TT_INLINE float vreduce_add(Vf v) {
  return vaddvq_f32(v);
}
TT_INLINE float vreduce_max(Vf v) {
  return vmaxvq_f32(v);
}

// Element conversions. p need not be aligned to the element.
TT_INLINE uint16x4_t vload_u16_n(const uint16_t* p, int64_t n) {
  uint16_t part[4] = {};
  memcpy(part, p, sizeof(uint16_t) * static_cast<size_t>(n));
  return vld1_u16(part);
}
TT_INLINE uint16x4_t vload_u16(const uint16_t* p) {
  return vload_u16_n(p, 4);
}
TT_INLINE void vstore_u16_n(uint16_t* p, uint16x4_t v, int64_t n) {
  uint16_t part[4];
  vst1_u16(part, v);
  memcpy(p, part, sizeof(uint16_t) * static_cast<size_t>(n));
}
TT_INLINE Vf vwiden_f16(uint16x4_t h) {
  return vcvt_f32_f16(vreinterpret_f16_u16(h));
}
TT_INLINE Vf vload_f16(const uint16_t* p) {
  return vwiden_f16(vload_u16(p));
}
TT_INLINE Vf vload_f16_n(const uint16_t* p, int64_t n) {
  return vwiden_f16(vload_u16_n(p, n));
}
TT_INLINE Vf vwiden_bf16(uint16x4_t h) {
  return vreinterpretq_f32_u32(vshll_n_u16(h, 16));
}
TT_INLINE Vf vload_bf16(const uint16_t* p) {
  return vwiden_bf16(vload_u16(p));
}
TT_INLINE Vf vload_bf16_n(const uint16_t* p, int64_t n) {
  return vwiden_bf16(vload_u16_n(p, n));
}
TT_INLINE Vf vload_i8(const int8_t* p) {
  uint32_t four;
  memcpy(&four, p, sizeof(four));
  const int16x8_t w = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(w)));
}
TT_INLINE void vstore_f16_n(uint16_t* p, Vf v, int64_t n) {
  vstore_u16_n(p, vreinterpret_u16_f16(vcvt_f16_f32(v)), n);
}
TT_INLINE void vstore_f16(uint16_t* p, Vf v) {
  vstore_f16_n(p, v, 4);
}
// Round to nearest even; NaNs stay NaN and become quiet.
TT_INLINE void vstore_bf16_n(uint16_t* p, Vf v, int64_t n) {
  const uint32x4_t bits = vreinterpretq_u32_f32(v);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t up = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  vstore_u16_n(p, vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), up, quiet), 16), n);
}
TT_INLINE void vstore_bf16(uint16_t* p, Vf v) {
  vstore_bf16_n(p, v, 4);
}
// Rounds to nearest even; |v| <= 127 is the caller's duty.
TT_INLINE void vstore_i8(int8_t* p, Vf v) {
  const int16x4_t w = vqmovn_s32(vcvtnq_s32_f32(v));
  const int8x8_t b = vqmovn_s16(vcombine_s16(w, w));
  const uint32_t four = vget_lane_u32(vreinterpret_u32_s8(b), 0);
  memcpy(p, &four, sizeof(four));
}
