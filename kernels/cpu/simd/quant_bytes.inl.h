// Stored weights as bytes, for dot products of integers: value = scale[group] * (byte - kOffset) +
// min[group]. Bytes<Q>::load(blocks, i) is the i-th vector of a super-block; scales and real mins are those
// of quant_types.inl.h. x86 multiplies unsigned codes with signed x, so codes keep an offset there, which
// sums of x make good; AVX2 adds pairs of products in 16 bits, so that full-range codes stay signed and lend
// their sign to x.

// How the 16-byte pieces of a super-block lie in its vectors; x is laid out likewise, once per matmul.
enum class Order {
  kNatural,
  kQuads,      // first halves of groups 0-3 (of 32 each), second halves, the same of groups 4-7
  kEvenQuads,  // first halves of groups 0 2 4 6, second halves, the same of groups 1 3 5 7
};
// Whether the groups of vectors 0 and 1, and those of 2 and 3, lie in the same lanes.
TT_INLINE constexpr bool shares_lanes(Order order) {
  return order != Order::kNatural;
}

#if defined(__AVX512F__)

using Vb = __m512i;  // 64 codes
constexpr int kVectors = kSuper / 64;

TT_INLINE __m256i half_load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
TT_INLINE Vb vb_load(const void* p) {
  return _mm512_loadu_si512(p);
}
TT_INLINE Vb vb_set1(int x) {
  return _mm512_set1_epi8(static_cast<char>(x));
}
TT_INLINE Vb vb_halves(const void* low, const void* high) {
  return _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(half_load(low)), half_load(high), 1);
}
TT_INLINE Vb vb_twice(const void* p) {
  return _mm512_maskz_broadcast_i64x4(0xff, half_load(p));
}
TT_INLINE __m128i quarter_load(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
// Sixteen bytes from each of four places `stride` bytes apart.
TT_INLINE Vb vb_quads(const void* p, int64_t stride) {
  const char* c = static_cast<const char*>(p);
  const __m256i low =
      _mm256_inserti128_si256(_mm256_castsi128_si256(quarter_load(c)), quarter_load(c + stride), 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(quarter_load(c + 2 * stride)),
                                               quarter_load(c + 3 * stride), 1);
  return _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(low), high, 1);
}
// The first (i even) or second halves of four groups that lie behind each other.
TT_INLINE Vb vb_group_halves(const void* p, int i) {
  const Vb low = vb_load(p);
  const Vb high = vb_load(static_cast<const char*>(p) + 64);
  return i % 2 == 0 ? _mm512_maskz_shuffle_i64x2(0xff, low, high, 0x88)
                    : _mm512_maskz_shuffle_i64x2(0xff, low, high, 0xdd);
}
// Bytes x in the first quarter, x << 2, x << 4, x << 6 in the others.
TT_INLINE Vb vb_steps(int x) {
  const auto pair = [](int low, int high) TT_LAMBDA_INLINE {
    return _mm256_set_m128i(_mm_set1_epi8(static_cast<char>(high)), _mm_set1_epi8(static_cast<char>(low)));
  };
  return _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(pair(x, x << 2)), pair(x << 4, x << 6), 1);
}
// The low (i even) or high nibbles.
TT_INLINE Vb vb_nibbles(Vb v, int i) {
  return _mm512_and_si512(i % 2 == 0 ? v : _mm512_maskz_srli_epi16(~0u, v, 4), vb_set1(15));
}
// (v >> low) & mask in the lower half, (v >> high) & mask in the upper one; negative shifts are to the left.
TT_INLINE Vb vb_fields(Vb v, int low, int high, int mask) {
  const __m512i shifts =
      _mm512_maskz_inserti64x4(0xff, _mm512_set1_epi16(static_cast<short>(low < 0 ? -low : low)),
                               _mm256_set1_epi16(static_cast<short>(low < 0 ? -high : high)), 1);
  const Vb moved =
      low < 0 ? _mm512_maskz_sllv_epi16(~0u, v, shifts) : _mm512_maskz_srlv_epi16(~0u, v, shifts);
  return _mm512_and_si512(moved, vb_set1(mask));
}
// v plus x where bit `low` (lower half) or `high` (upper half) of `bits` is set.
TT_INLINE Vb vb_add_where(Vb v, Vb bits, int low, int high, int x) {
  const Vb which =
      _mm512_maskz_inserti64x4(0xff, vb_set1(1 << low), _mm256_set1_epi8(static_cast<char>(1 << high)), 1);
  return _mm512_mask_add_epi8(v, _mm512_test_epi8_mask(bits, which), v, vb_set1(x));
}
// The fifth bits of four blocks, whose words of 32 bits lie `stride` bytes apart: of their first or last 16.
TT_INLINE Vb vb_add_fifth(Vb v, const void* high, int64_t stride, int i) {
  const uint64_t bits = four_f16(static_cast<const char*>(high) + 2 * (i % 2), stride);
  return _mm512_mask_add_epi8(v, bits, v, vb_set1(16));
}
TT_INLINE Vb vb_look_up(Vb nibbles, const CodeBook& book, int offset) {
  const __m128i table = _mm_add_epi8(quarter_load(book.i), _mm_set1_epi8(static_cast<char>(offset)));
  return _mm512_shuffle_epi8(_mm512_maskz_broadcast_i32x4(0xffff, table), nibbles);
}

template <class Q>
struct Bytes;
template <Order kOrderOf, int kOffsetOf, bool kMinOf>
struct BytesLayout {
  static constexpr Order kOrder = kOrderOf;
  static constexpr int kOffset = kOffsetOf;
  static constexpr bool kHasMin = kMinOf;
};

template <>
struct Bytes<Q8_0> : BytesLayout<Order::kNatural, 128, false> {
  static TT_INLINE Vb load(const BlockQ8_0* b, int i) {
    return _mm512_xor_si512(vb_halves(b[2 * i].qs, b[2 * i + 1].qs), vb_set1(128));
  }
};
template <>
struct Bytes<Q4_0> : BytesLayout<Order::kQuads, 8, false> {
  static TT_INLINE Vb load(const BlockQ4_0* b, int i) {
    return vb_nibbles(vb_quads(b[i / 2 * 4].qs, sizeof(*b)), i);
  }
};
template <>
struct Bytes<Q4_1> : BytesLayout<Order::kQuads, 0, true> {
  static TT_INLINE Vb load(const BlockQ4_1* b, int i) {
    return vb_nibbles(vb_quads(b[i / 2 * 4].qs, sizeof(*b)), i);
  }
};
template <>
struct Bytes<Q5_0> : BytesLayout<Order::kQuads, 16, false> {
  static TT_INLINE Vb load(const BlockQ5_0* b, int i) {
    const BlockQ5_0* four = b + i / 2 * 4;
    return vb_add_fifth(vb_nibbles(vb_quads(four->qs, sizeof(*b)), i), &four->qh, sizeof(*b), i);
  }
};
template <>
struct Bytes<Q5_1> : BytesLayout<Order::kQuads, 0, true> {
  static TT_INLINE Vb load(const BlockQ5_1* b, int i) {
    const BlockQ5_1* four = b + i / 2 * 4;
    return vb_add_fifth(vb_nibbles(vb_quads(four->qs, sizeof(*b)), i), &four->qh, sizeof(*b), i);
  }
};
template <>
struct Bytes<IQ4_NL> : BytesLayout<Order::kQuads, 128, false> {
  static TT_INLINE Vb load(const BlockIQ4_NL* b, int i) {
    return vb_look_up(vb_nibbles(vb_quads(b[i / 2 * 4].qs, sizeof(*b)), i), kBookT16, 128);
  }
};
template <>
struct Bytes<MXFP4> : BytesLayout<Order::kQuads, 12, false> {
  static TT_INLINE Vb load(const BlockMXFP4* b, int i) {
    return vb_look_up(vb_nibbles(vb_quads(b[i / 2 * 4].qs, sizeof(*b)), i), kBookT4, 12);
  }
};
template <>
struct Bytes<IQ4_XS> : BytesLayout<Order::kQuads, 128, false> {
  static TT_INLINE Vb load(const BlockIQ4_XS* b, int i) {
    return vb_look_up(vb_nibbles(vb_load(b->qs + 64 * (i / 2)), i), kBookT16, 128);
  }
};
template <>
struct Bytes<Q4_K> : BytesLayout<Order::kEvenQuads, 0, true> {
  static TT_INLINE Vb load(const BlockQ4_K* b, int i) { return vb_nibbles(vb_group_halves(b->qs, i), i / 2); }
};
template <>
struct Bytes<Q5_K> : BytesLayout<Order::kEvenQuads, 0, true> {
  static TT_INLINE Vb load(const BlockQ5_K* b, int i) {
    const Vb bits = _mm512_maskz_broadcast_i32x4(0xffff, quarter_load(b->qh + 16 * (i % 2)));
    const Vb which = vb_steps(1 << i / 2);  // by group
    const Vb nibbles = vb_nibbles(vb_group_halves(b->qs, i), i / 2);
    return _mm512_mask_add_epi8(nibbles, _mm512_test_epi8_mask(bits, which), nibbles, vb_set1(16));
  }
};
template <>
struct Bytes<Q6_K> : BytesLayout<Order::kNatural, 32, false> {
  static TT_INLINE Vb load(const BlockQ6_K* b, int i) {
    const Vb high = vb_twice(b->qh + 32 * (i / 2));
    const Vb tops = i % 2 == 0 ? vb_fields(high, -4, -2, 48) : vb_fields(high, 0, 2, 48);
    return _mm512_or_si512(vb_nibbles(vb_load(b->ql + 64 * (i / 2)), i), tops);
  }
};
template <>
struct Bytes<Q2_K> : BytesLayout<Order::kNatural, 0, true> {
  static TT_INLINE Vb load(const BlockQ2_K* b, int i) {
    const int shift = 4 * (i % 2);
    return vb_fields(vb_twice(b->qs + 32 * (i / 2)), shift, shift + 2, 3);
  }
};
template <>
struct Bytes<Q3_K> : BytesLayout<Order::kNatural, 4, false> {
  static TT_INLINE Vb load(const BlockQ3_K* b, int i) {
    const int shift = 4 * (i % 2);
    const Vb low = vb_fields(vb_twice(b->qs + 32 * (i / 2)), shift, shift + 2, 3);
    return vb_add_where(low, vb_twice(b->hmask), 2 * i, 2 * i + 1, 4);
  }
};

#else

// One vector is one group of 32, in natural order.
using Vb = B32;
constexpr int kVectors = kSuper / 32;

TT_INLINE Vb vb_load(const void* p) {
  return b32_load(p);
}
#if defined(TT_AVX_VNNI)
// acc plus, to each lane of 32 bits, four products of unsigned bytes of w with signed ones of x. The second
// form is for a machine without the first, see cmake/isa.cmake.
TT_INLINE __m256i vb_dot(__m256i acc, Vb w, Vb x) {
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(acc, w, x);
#else
  return _mm256_dpbusd_epi32(acc, w, x);
#endif
}
#endif
TT_INLINE Vb vb_signed_look_up(Vb nibbles, const CodeBook& book) {
#if defined(__AVX2__)
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(book.i));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles);
#else
  return b32_look_up(nibbles, book);
#endif
}
// NEON multiplies signed codes: the offset goes at once.
#if defined(__AVX2__)
constexpr bool kSignedCodes = false;
#else
constexpr bool kSignedCodes = true;
#endif
TT_INLINE Vb vb_signed(Vb v, int offset) {
  return kSignedCodes ? b32_minus(v, offset) : v;
}

template <class Q>
struct Bytes;

// kFullOf: codes use all eight bits, the sign among them.
template <bool kFullOf, int kOffsetOf, bool kMinOf>
struct BytesLayout {
  static constexpr Order kOrder = Order::kNatural;
  static constexpr bool kFull = kFullOf;
  static constexpr int kOffset = kSignedCodes ? 0 : kOffsetOf;
  static constexpr bool kHasMin = kMinOf;
};

template <>
struct Bytes<Q8_0> : BytesLayout<true, 0, false> {
  static TT_INLINE Vb load(const BlockQ8_0* b, int i) { return b32_load(b[i].qs); }
};
template <>
struct Bytes<Q4_0> : BytesLayout<false, 8, false> {
  static TT_INLINE Vb load(const BlockQ4_0* b, int i) { return vb_signed(b32_pairs(b[i].qs), 8); }
};
template <>
struct Bytes<Q4_1> : BytesLayout<false, 0, true> {
  static TT_INLINE Vb load(const BlockQ4_1* b, int i) { return b32_pairs(b[i].qs); }
};
template <>
struct Bytes<Q5_0> : BytesLayout<false, 16, false> {
  static TT_INLINE Vb load(const BlockQ5_0* b, int i) {
    return vb_signed(b32_or(b32_pairs(b[i].qs), b32_bits(b[i].qh, 16)), 16);
  }
};
template <>
struct Bytes<Q5_1> : BytesLayout<false, 0, true> {
  static TT_INLINE Vb load(const BlockQ5_1* b, int i) {
    return b32_or(b32_pairs(b[i].qs), b32_bits(b[i].qh, 16));
  }
};
template <>
struct Bytes<IQ4_NL> : BytesLayout<true, 0, false> {
  static TT_INLINE Vb load(const BlockIQ4_NL* b, int i) {
    return vb_signed_look_up(b32_pairs(b[i].qs), kBookT16);
  }
};
template <>
struct Bytes<MXFP4> : BytesLayout<true, 0, false> {
  static TT_INLINE Vb load(const BlockMXFP4* b, int i) {
    return vb_signed_look_up(b32_pairs(b[i].qs), kBookT4);
  }
};
template <>
struct Bytes<IQ4_XS> : BytesLayout<true, 0, false> {
  static TT_INLINE Vb load(const BlockIQ4_XS* b, int i) {
    return vb_signed_look_up(b32_pairs(b->qs + 16 * i), kBookT16);
  }
};
template <>
struct Bytes<Q4_K> : BytesLayout<false, 0, true> {
  static TT_INLINE Vb load(const BlockQ4_K* b, int i) {
    return b32_field(b32_load(b->qs + i / 2 * 32), 4 * (i % 2), 15);
  }
};
template <>
struct Bytes<Q5_K> : BytesLayout<false, 0, true> {
  static TT_INLINE Vb load(const BlockQ5_K* b, int i) {
    return b32_or(b32_field(b32_load(b->qs + i / 2 * 32), 4 * (i % 2), 15),
                  b32_field(b32_load(b->qh), i - 4, 16));
  }
};
template <>
struct Bytes<Q6_K> : BytesLayout<false, 32, false> {
  static TT_INLINE Vb load(const BlockQ6_K* b, int i) {
    const int n = i / 4;
    const int k = i % 4;
    const B32 low = b32_field(b32_load(b->ql + 64 * n + 32 * (k % 2)), 4 * (k / 2), 15);
    return vb_signed(b32_or(low, b32_field(b32_load(b->qh + 32 * n), 2 * k - 4, 48)), 32);
  }
};
template <>
struct Bytes<Q2_K> : BytesLayout<false, 0, true> {
  static TT_INLINE Vb load(const BlockQ2_K* b, int i) {
    return b32_field(b32_load(b->qs + i / 4 * 32), 2 * (i % 4), 3);
  }
};
template <>
struct Bytes<Q3_K> : BytesLayout<false, 4, false> {
  static TT_INLINE Vb load(const BlockQ3_K* b, int i) {
    const B32 low = b32_field(b32_load(b->qs + i / 4 * 32), 2 * (i % 4), 3);
    return vb_signed(b32_or(low, b32_field(b32_load(b->hmask), i - 2, 4)), 4);
  }
};

#endif

// Where the 16-byte piece j of the vectors comes from in natural order.
template <Order kOrder>
TT_INLINE constexpr int natural_piece(int j) {
  return kOrder == Order::kNatural ? j
         : kOrder == Order::kQuads ? j / 8 * 8 + j % 4 * 2 + j / 4 % 2
                                   : j % 4 * 4 + j / 8 * 2 + j / 4 % 2;
}
