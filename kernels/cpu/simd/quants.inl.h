// Stored weights as vectors of f32: every block type is value = scale[group] * code + min[group], with small
// integer codes. A type below says how its codes and its scales are unpacked; matmul and gather do the rest.
// Everything works on super-blocks of 256 elements: one block of a K type, eight blocks of a 32-element type
// (their eight f16 scales are converted together). Layouts: quant_blocks.h, formulas: spec 2.2-2.4.

constexpr int kSuper = 256;
constexpr int kParts = kSuper / 32;  // codes are unpacked 32 at a time
constexpr int kPer32 = 32 / kLanes;

// Thirty-two consecutive codes.
struct Codes {
  Vf v[kPer32];
};

// A 16-entry code book in the forms that the ISAs look up in.
struct CodeBook {
  float f[16];
  int8_t i[16];
  uint8_t
      above[16];  // entry k ^ flip minus base: entry 0 is 0, so that look-ups of zero bytes give zero bytes
  int base;
  int flip;
};
#define TT_CODE_BOOK(...) \
  { {__VA_ARGS__}, {__VA_ARGS__}, {}, 0, 0 }
constexpr CodeBook with_base(CodeBook book, int base, int flip) {
  book.base = base;
  book.flip = flip;
  for (int k = 0; k < 16; ++k) book.above[k] = static_cast<uint8_t>(book.i[k ^ flip] - base);
  return book;
}
alignas(64) constexpr CodeBook kBookT16 = with_base(TT_CODE_BOOK(TT_T16_VALUES), -127, 0);
alignas(64) constexpr CodeBook kBookT4 = with_base(TT_CODE_BOOK(TT_T4_VALUES), -12, 15);
static_assert(kBookT16.above[0] == 0 && kBookT4.above[0] == 0);
#if defined(__AVX512F__)
alignas(64) constexpr CodeBook kNibbles = TT_CODE_BOOK(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
alignas(64) constexpr CodeBook kNibblesMinus8 = TT_CODE_BOOK(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5,
                                                             6, 7);
// Indexed by four bits of which only the low two belong to the element.
alignas(64) constexpr CodeBook kCrumbs = TT_CODE_BOOK(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
alignas(64) constexpr CodeBook kCrumbsMinus4 = TT_CODE_BOOK(-4, -3, -2, -1, -4, -3, -2, -1, -4, -3, -2, -1,
                                                            -4, -3, -2, -1);
alignas(64) constexpr CodeBook kCrumbs16Minus32 = TT_CODE_BOOK(-32, -16, 0, 16, -32, -16, 0, 16, -32, -16, 0,
                                                               16, -32, -16, 0, 16);
#endif
#undef TT_CODE_BOOK

// ---- V8: eight f32, the number of groups of 32 in a super-block, on every ISA. ----

#if defined(__AVX2__)
using V8 = __m256;
TT_INLINE V8 v8_zero() {
  return _mm256_setzero_ps();
}
TT_INLINE V8 v8_load(const float* p) {
  return _mm256_loadu_ps(p);
}
TT_INLINE void v8_store(float* p, V8 v) {
  _mm256_storeu_ps(p, v);
}
TT_INLINE V8 v8_scale(V8 v, float f) {
  return _mm256_mul_ps(v, _mm256_set1_ps(f));
}
TT_INLINE V8 v8_fma(V8 a, V8 b, V8 c) {
  return _mm256_fmadd_ps(a, b, c);
}
TT_INLINE V8 v8_i8(uint64_t bytes) {
  const __m128i b = _mm_cvtsi64_si128(static_cast<int64_t>(bytes));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b));
}
TT_INLINE V8 v8_f16(uint64_t low, uint64_t high) {
  return _mm256_cvtph_ps(_mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low)));
}
// f32_from_e8m0_half of eight bytes.
TT_INLINE V8 v8_e8m0_half(uint64_t bytes) {
  const __m256i e = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(bytes)));
  const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
  const __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
  return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
}
TT_INLINE float v8_sum(V8 v) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
#else
struct V8 {
  Vf low;
  Vf high;
};
TT_INLINE V8 v8_zero() {
  return {vzero(), vzero()};
}
TT_INLINE V8 v8_load(const float* p) {
  return {vload(p), vload(p + 4)};
}
TT_INLINE void v8_store(float* p, V8 v) {
  vstore(p, v.low);
  vstore(p + 4, v.high);
}
TT_INLINE V8 v8_scale(V8 v, float f) {
  return {vmul(v.low, vset1(f)), vmul(v.high, vset1(f))};
}
TT_INLINE V8 v8_fma(V8 a, V8 b, V8 c) {
  return {vfma(a.low, b.low, c.low), vfma(a.high, b.high, c.high)};
}
TT_INLINE V8 v8_i8(uint64_t bytes) {
  const int16x8_t w = vmovl_s8(vcreate_s8(bytes));
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(w))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(w)))};
}
TT_INLINE V8 v8_f16(uint64_t low, uint64_t high) {
  return {vwiden_f16(vcreate_u16(low)), vwiden_f16(vcreate_u16(high))};
}
TT_INLINE Vf v4_e8m0_half(uint32x4_t e) {
  const uint32x4_t normal = vshlq_n_u32(vsubq_u32(e, vdupq_n_u32(1)), 23);
  const uint32x4_t tiny = vshlq_u32(vdupq_n_u32(0x00200000), vreinterpretq_s32_u32(e));
  return vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), tiny, normal));
}
// f32_from_e8m0_half of eight bytes.
TT_INLINE V8 v8_e8m0_half(uint64_t bytes) {
  const uint16x8_t w = vmovl_u8(vcreate_u8(bytes));
  return {v4_e8m0_half(vmovl_u16(vget_low_u16(w))), v4_e8m0_half(vmovl_u16(vget_high_u16(w)))};
}
TT_INLINE float v8_sum(V8 v) {
  return vreduce_add(vadd(v.low, v.high));
}
#endif

// The f16 numbers at the starts of four blocks, packed. Through general registers: the vector units are
// what limits the dot products.
TT_INLINE uint64_t four_f16(const void* p, int64_t stride) {
  const char* c = static_cast<const char*>(p);
  uint16_t h[4];
  TT_UNROLL
  for (int i = 0; i < 4; ++i) memcpy(&h[i], c + i * stride, sizeof(h[i]));
  return h[0] | static_cast<uint64_t>(h[1]) << 16 | static_cast<uint64_t>(h[2]) << 32 |
         static_cast<uint64_t>(h[3]) << 48;
}
TT_INLINE V8 eight_f16(const void* p, int64_t stride) {
  return v8_f16(four_f16(p, stride), four_f16(static_cast<const char*>(p) + 4 * stride, stride));
}
TT_INLINE uint64_t load_u64(const void* p) {
  uint64_t u;
  memcpy(&u, p, sizeof(u));
  return u;
}
TT_INLINE uint32_t load_u32(const void* p) {
  uint32_t u;
  memcpy(&u, p, sizeof(u));
  return u;
}

// ---- Codes from bytes. ----

#if defined(__AVX512F__)

// Sixteen bytes as 32-bit lanes: the form whose low four bits index a register of sixteen f32.
TT_INLINE __m512i lanes_of(const uint8_t* p) {
  return _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
TT_INLINE Vf look_up(__m512i bytes, int shift, const CodeBook& book) {
  const __m512i index =
      shift == 0 ? bytes : _mm512_maskz_srli_epi32(0xffff, bytes, static_cast<uint32_t>(shift));
  return _mm512_maskz_permutexvar_ps(0xffff, index, _mm512_load_ps(book.f));
}
// Lanes of v plus x where the byte has the bit set.
TT_INLINE Vf add_where(Vf v, __m512i bytes, int bit, float x) {
  const __mmask16 m = _mm512_test_epi32_mask(bytes, _mm512_set1_epi32(1 << bit));
  return _mm512_mask_add_ps(v, m, v, _mm512_set1_ps(x));
}

// Codes of sixteen bytes: low nibbles, then high nibbles.
TT_INLINE Codes nibble_pairs(const uint8_t* p, const CodeBook& book) {
  const __m512i b = lanes_of(p);
  return {{look_up(b, 0, book), look_up(b, 4, book)}};
}
// Codes from the four bits at `shift` of thirty-two bytes.
TT_INLINE Codes fields(const uint8_t* p, int shift, const CodeBook& book) {
  return {{look_up(lanes_of(p), shift, book), look_up(lanes_of(p + 16), shift, book)}};
}
TT_INLINE Codes linear_pairs(const uint8_t* p) {
  return nibble_pairs(p, kNibbles);
}
TT_INLINE Codes five_bits(const uint8_t* p, uint32_t high) {
  const Codes c = linear_pairs(p);
  const Vf x = vset1(16.0f);
  return {{_mm512_mask_add_ps(c.v[0], static_cast<__mmask16>(high), c.v[0], x),
           _mm512_mask_add_ps(c.v[1], static_cast<__mmask16>(high >> 16), c.v[1], x)}};
}

#else

// B32: thirty-two bytes.
#if defined(__AVX2__)
using B32 = __m256i;
TT_INLINE B32 b32_load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
TT_INLINE B32 b32_or(B32 a, B32 b) {
  return _mm256_or_si256(a, b);
}
// (a >> shift) & mask per byte; a negative shift is to the left. The mask hides what crosses a byte.
TT_INLINE B32 b32_field(B32 a, int shift, int mask) {
  const B32 s = shift >= 0 ? _mm256_srli_epi16(a, shift) : _mm256_slli_epi16(a, -shift);
  return _mm256_and_si256(s, _mm256_set1_epi8(static_cast<char>(mask)));
}
TT_INLINE B32 b32_minus(B32 a, int x) {
  return _mm256_sub_epi8(a, _mm256_set1_epi8(static_cast<char>(x)));
}
// Low nibbles of sixteen bytes, then their high nibbles.
TT_INLINE B32 b32_pairs(const uint8_t* p) {
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(b), _mm_srli_epi16(b, 4), 1);
  return _mm256_and_si256(both, _mm256_set1_epi8(15));
}
// Byte i: value where bit i is set, else 0.
TT_INLINE B32 b32_bits(uint32_t bits, int value) {
  const B32 spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const B32 bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
  const B32 b = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), spread);
  const B32 set = _mm256_cmpeq_epi8(_mm256_and_si256(b, bit), bit);
  return _mm256_and_si256(set, _mm256_set1_epi8(static_cast<char>(value)));
}
TT_INLINE Codes widen(B32 b) {  // signed
  const __m128i low = _mm256_castsi256_si128(b);
  const __m128i high = _mm256_extracti128_si256(b, 1);
  return {{_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)),
           _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(low, low))),
           _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)),
           _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(high, high)))}};
}
// Nibbles without a code book are cheaper from 32-bit lanes: no shuffle beyond the widening load.
TT_INLINE __m256i lanes_of(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
TT_INLINE Vf low_nibbles(__m256i b) {
  return _mm256_cvtepi32_ps(_mm256_and_si256(b, _mm256_set1_epi32(15)));
}
TT_INLINE Vf high_nibbles(__m256i b) {
  return _mm256_cvtepi32_ps(_mm256_srli_epi32(b, 4));
}
TT_INLINE Codes linear_pairs(const uint8_t* p) {
  const __m256i a = lanes_of(p);
  const __m256i b = lanes_of(p + 8);
  return {{low_nibbles(a), low_nibbles(b), high_nibbles(a), high_nibbles(b)}};
}
// Looked up in the lanes as well, in the form that keeps their upper bytes zero: code minus the book's base.
TT_INLINE Codes nibble_pairs(const uint8_t* p, const CodeBook& book) {
  const __m128i t = _mm_loadu_si128(reinterpret_cast<const __m128i*>(book.above));
  const __m256i table = _mm256_broadcastsi128_si256(t);
  const __m256i flip = _mm256_set1_epi32(17 * book.flip);
  Codes c;
  TT_UNROLL
  for (int i = 0; i < 2; ++i) {
    const __m256i b = book.flip == 0 ? lanes_of(p + 8 * i) : _mm256_xor_si256(lanes_of(p + 8 * i), flip);
    const __m256i low = _mm256_and_si256(b, _mm256_set1_epi32(15));
    c.v[i] = _mm256_cvtepi32_ps(_mm256_shuffle_epi8(table, low));
    c.v[i + 2] = _mm256_cvtepi32_ps(_mm256_shuffle_epi8(table, _mm256_srli_epi32(b, 4)));
  }
  return c;
}
TT_INLINE Codes linear_nibbles(const uint8_t* p, int shift) {
  Codes c;
  TT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const __m256i b = lanes_of(p + 8 * i);
    c.v[i] = shift == 0 ? low_nibbles(b) : high_nibbles(b);
  }
  return c;
}
#else
struct B32 {
  uint8x16_t a;
  uint8x16_t b;
};
TT_INLINE B32 b32_load(const void* p) {
  const auto* u = static_cast<const uint8_t*>(p);
  return {vld1q_u8(u), vld1q_u8(u + 16)};
}
TT_INLINE B32 b32_or(B32 x, B32 y) {
  return {vorrq_u8(x.a, y.a), vorrq_u8(x.b, y.b)};
}
// (x >> shift) & mask per byte; a negative shift is to the left.
TT_INLINE B32 b32_field(B32 x, int shift, int mask) {
  const int8x16_t s = vdupq_n_s8(static_cast<int8_t>(-shift));
  const uint8x16_t m = vdupq_n_u8(static_cast<uint8_t>(mask));
  return {vandq_u8(vshlq_u8(x.a, s), m), vandq_u8(vshlq_u8(x.b, s), m)};
}
TT_INLINE B32 b32_minus(B32 x, int y) {
  const uint8x16_t v = vdupq_n_u8(static_cast<uint8_t>(y));
  return {vsubq_u8(x.a, v), vsubq_u8(x.b, v)};
}
// Low nibbles of sixteen bytes, then their high nibbles.
TT_INLINE B32 b32_pairs(const uint8_t* p) {
  const uint8x16_t b = vld1q_u8(p);
  return {vandq_u8(b, vdupq_n_u8(15)), vshrq_n_u8(b, 4)};
}
TT_INLINE B32 b32_look_up(B32 index, const CodeBook& book) {
  const uint8x16_t t = vreinterpretq_u8_s8(vld1q_s8(book.i));
  return {vqtbl1q_u8(t, index.a), vqtbl1q_u8(t, index.b)};
}
TT_INLINE uint8x16_t b16_bits(uint32_t bits, int value) {
  const uint8x8_t bit = vcreate_u8(0x8040201008040201ull);
  const uint8x16_t b =
      vcombine_u8(vdup_n_u8(static_cast<uint8_t>(bits)), vdup_n_u8(static_cast<uint8_t>(bits >> 8)));
  return vandq_u8(vtstq_u8(b, vcombine_u8(bit, bit)), vdupq_n_u8(static_cast<uint8_t>(value)));
}
// Byte i: value where bit i is set, else 0.
TT_INLINE B32 b32_bits(uint32_t bits, int value) {
  return {b16_bits(bits & 0xffffu, value), b16_bits(bits >> 16, value)};
}
TT_INLINE void widen16(uint8x16_t b, Vf* v) {
  const int8x16_t s = vreinterpretq_s8_u8(b);
  const int16x8_t low = vmovl_s8(vget_low_s8(s));
  const int16x8_t high = vmovl_s8(vget_high_s8(s));
  v[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)));
  v[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(low)));
  v[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)));
  v[3] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)));
}
TT_INLINE Codes widen(B32 b) {  // signed
  Codes c;
  widen16(b.a, c.v);
  widen16(b.b, c.v + 4);
  return c;
}
TT_INLINE Codes linear_pairs(const uint8_t* p) {
  return widen(b32_pairs(p));
}
TT_INLINE Codes nibble_pairs(const uint8_t* p, const CodeBook& book) {
  return widen(b32_look_up(b32_pairs(p), book));
}
TT_INLINE Codes linear_nibbles(const uint8_t* p, int shift) {
  return widen(b32_field(b32_load(p), shift, 15));
}
#endif

TT_INLINE Codes five_bits(const uint8_t* p, uint32_t high) {
  return widen(b32_or(b32_pairs(p), b32_bits(high, 16)));
}

#endif

// Scales and mins of one super-block, one entry per group: 8 groups of 32, or 16 of 16 in two halves.
struct alignas(64) Scales {
  float scale[16];
  V8 min[2];
};

// Whether nibble_pairs returns codes minus the book's base, so that the base becomes a min.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool kBookMins = true;
#else
constexpr bool kBookMins = false;
#endif
TT_INLINE void book_scales(V8 scale, const CodeBook& book, Scales& s) {
  v8_store(s.scale, scale);
  if constexpr (kBookMins) s.min[0] = v8_scale(scale, static_cast<float>(book.base));
}

// Makes the compiler read the scales back from memory, where broadcasting one is free (part of the load);
// from registers it takes two shuffles each.
TT_INLINE void spill(float (&scale)[16]) {
  __asm__("" : "+m"(scale));
}

#include "kernels/cpu/simd/quant_types.inl.h"

// The list that matmul and gather make their tables from.
#define TT_BLOCK_TYPES(X) \
  X(Q8_0) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(IQ4_NL) X(MXFP4) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_XS)

template <class Q>
constexpr int kBlocks = kSuper / Q::kElems;  // of a super-block

// kRows rows of whole blocks, `stride` bytes apart, that may end inside a super-block: calls f(blocks, i) for
// super-block i, blocks[r] being that of row r; the last ones are copies padded with zero blocks, whose
// values are zeros, where blocks are missing.
template <class Q, int kRows, class F>
TT_INLINE void for_each_super(const void* rows, int64_t stride, int64_t n_elems, F f) {
  using Block = typename Q::Block;
  const Block* blocks[kRows];
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    blocks[r] = reinterpret_cast<const Block*>(static_cast<const char*>(rows) + r * stride);
  }
  const int64_t n_blocks = n_elems / Q::kElems;
  const int64_t n_whole = n_blocks / kBlocks<Q>;
  for (int64_t i = 0; i < n_whole; ++i) {
    f(blocks, i);
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) blocks[r] += kBlocks<Q>;
  }
  if constexpr (kBlocks < Q >> 1) {
    const int64_t rest = n_blocks - n_whole * kBlocks<Q>;
    if (rest == 0) return;
    Block copies[kRows][kBlocks<Q>];
    memset(copies, 0, sizeof(copies));
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      memcpy(copies[r], blocks[r], static_cast<size_t>(rest) * sizeof(Block));
      blocks[r] = copies[r];
    }
    f(blocks, n_whole);
  }
}
template <class Q, class F>
TT_INLINE void for_each_super(const void* row, int64_t n_elems, F f) {
  const auto only = [&](const typename Q::Block* const(&blocks)[1], int64_t i)
                        TT_LAMBDA_INLINE { f(blocks[0], i); };
  for_each_super<Q, 1>(row, 0, n_elems, only);
}

// ---- Rows to f32. `out` gets n values; n is a whole number of blocks. ----

using DecodeFn = void (*)(const void* row, int64_t n, float* out);

template <class Q>
TT_INLINE void decode_super(const typename Q::Block* blocks, float* out) {
  Scales s;
  Q::scales(blocks, s);
  spill(s.scale);
  alignas(64) float min[16];
  if constexpr (Q::kHasMin) {
    v8_store(min, s.min[0]);
    if constexpr (Q::kGroup == 16) v8_store(min + 8, s.min[1]);
    spill(min);
  }
  TT_UNROLL
  for (int part = 0; part < kParts; ++part) {
    const Codes q = Q::codes(blocks, part);
    TT_UNROLL
    for (int j = 0; j < kPer32; ++j) {
      const int g = (32 * part + kLanes * j) / Q::kGroup;
      const Vf scale = vset1(s.scale[g]);
      if constexpr (Q::kHasMin && requires { Q::kBook; }) {
        // Scale times base alone may overflow where the value does not.
        vstore(out + 32 * part + kLanes * j,
               vmul(vadd(q.v[j], vset1(static_cast<float>(Q::kBook.base))), scale));
        continue;
      }
      // The product is exact (11 bits of f16 times at most 6 + 5), so fusing changes nothing.
      const Vf v = Q::kHasMin ? vfma(q.v[j], scale, vset1(min[g])) : vmul(q.v[j], scale);
      vstore(out + 32 * part + kLanes * j, v);
    }
  }
}

template <class Q>
void decode_blocks(const void* row, int64_t n, float* out) {
  for_each_super<Q>(row, n, [&](const typename Q::Block* blocks, int64_t i) TT_LAMBDA_INLINE {
    if ((i + 1) * kSuper <= n) {
      decode_super<Q>(blocks, out + i * kSuper);
    } else {
      float part[kSuper];
      decode_super<Q>(blocks, part);
      memcpy(out + i * kSuper, part, static_cast<size_t>(n - i * kSuper) * sizeof(float));
    }
  });
}

struct F32 {
  using Element = float;
  static TT_INLINE Vf load(const float* p) { return vload(p); }
  static TT_INLINE Vf load_n(const float* p, int64_t n) { return vload_n(p, n); }
};
struct F16 {
  using Element = uint16_t;
  static TT_INLINE Vf load(const uint16_t* p) { return vload_f16(p); }
  static TT_INLINE Vf load_n(const uint16_t* p, int64_t n) { return vload_f16_n(p, n); }
};
struct BF16 {
  using Element = uint16_t;
  static TT_INLINE Vf load(const uint16_t* p) { return vload_bf16(p); }
  static TT_INLINE Vf load_n(const uint16_t* p, int64_t n) { return vload_bf16_n(p, n); }
};

template <class D>
void decode_dense(const void* row, int64_t n, float* out) {
  const auto* p = static_cast<const typename D::Element*>(row);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) vstore(out + i, D::load(p + i));
  if (i < n) vstore_n(out + i, D::load_n(p + i, n - i), n - i);
}

// nullptr for a dtype that is not a weight.
[[maybe_unused]] DecodeFn decode_fn(Dtype dtype) {  // some files only read bytes
  switch (dtype) {
    case Dtype::kF32:
      return decode_dense<F32>;
    case Dtype::kF16:
      return decode_dense<F16>;
    case Dtype::kBF16:
      return decode_dense<BF16>;
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return decode_blocks<name>;
      TT_BLOCK_TYPES(TT_CASE)
#undef TT_CASE
    default:
      return nullptr;
  }
}
