// How each block type is unpacked: scales(blocks, s) of one super-block, codes(blocks, part) of its elements
// [32 part, 32 part + 32). Part of quants.inl.h.

// ---- Eight blocks of 32, one group each. ----

#define TT_TYPE_32(name)                    \
  using Block = Block##name;                \
  static constexpr int kElems = 32;         \
  static constexpr int kGroup = 32;         \
  static TT_INLINE V8 d8(const Block* b) {  \
    return eight_f16(&b->d, sizeof(Block)); \
  }

struct Q8_0 {
  TT_TYPE_32(Q8_0)
  static constexpr bool kHasMin = false;
  static TT_INLINE void scales(const Block* b, Scales& s) { v8_store(s.scale, d8(b)); }
  static TT_INLINE Codes codes(const Block* b, int part) {
    Codes r;
    TT_UNROLL
    for (int i = 0; i < kPer32; ++i) r.v[i] = vload_i8(b[part].qs + kLanes * i);
    return r;
  }
};

struct Q4_0 {
  TT_TYPE_32(Q4_0)
#if defined(__AVX512F__)
  static constexpr bool kHasMin = false;
  static TT_INLINE void scales(const Block* b, Scales& s) {
    v8_store(s.scale, d8(b));
  }
  static TT_INLINE Codes codes(const Block* b, int part) {
    return nibble_pairs(b[part].qs, kNibblesMinus8);
  }
#else
  static constexpr bool kHasMin = true;
  static TT_INLINE void scales(const Block* b, Scales& s) {
    const V8 d = d8(b);
    v8_store(s.scale, d);
    s.min[0] = v8_scale(d, -8.0f);
  }
  static TT_INLINE Codes codes(const Block* b, int part) {
    return linear_pairs(b[part].qs);
  }
#endif
};

struct Q4_1 {
  TT_TYPE_32(Q4_1)
  static constexpr bool kHasMin = true;
  static TT_INLINE void scales(const Block* b, Scales& s) {
    v8_store(s.scale, d8(b));
    s.min[0] = eight_f16(&b->m, sizeof(Block));
  }
  static TT_INLINE Codes codes(const Block* b, int part) { return linear_pairs(b[part].qs); }
};

struct Q5_0 {
  TT_TYPE_32(Q5_0)
  static constexpr bool kHasMin = true;
  static TT_INLINE void scales(const Block* b, Scales& s) {
    const V8 d = d8(b);
    v8_store(s.scale, d);
    s.min[0] = v8_scale(d, -16.0f);
  }
  static TT_INLINE Codes codes(const Block* b, int part) { return five_bits(b[part].qs, b[part].qh); }
};

struct Q5_1 {
  TT_TYPE_32(Q5_1)
  static constexpr bool kHasMin = true;
  static TT_INLINE void scales(const Block* b, Scales& s) {
    v8_store(s.scale, d8(b));
    s.min[0] = eight_f16(&b->m, sizeof(Block));
  }
  static TT_INLINE Codes codes(const Block* b, int part) { return five_bits(b[part].qs, b[part].qh); }
};

struct IQ4_NL {
  TT_TYPE_32(IQ4_NL)
  static constexpr bool kHasMin = kBookMins;
  static constexpr const CodeBook& kBook = kBookT16;
  static TT_INLINE void scales(const Block* b, Scales& s) { book_scales(d8(b), kBookT16, s); }
  static TT_INLINE Codes codes(const Block* b, int part) { return nibble_pairs(b[part].qs, kBookT16); }
};
#undef TT_TYPE_32

struct MXFP4 {
  using Block = BlockMXFP4;
  static constexpr int kElems = 32;
  static constexpr int kGroup = 32;
  static constexpr bool kHasMin = kBookMins;
  static constexpr const CodeBook& kBook = kBookT4;
  static TT_INLINE void scales(const Block* b, Scales& s) {
    uint64_t e = 0;
    TT_UNROLL
    for (int i = 0; i < kParts; ++i) e |= static_cast<uint64_t>(b[i].e) << (8 * i);
    book_scales(v8_e8m0_half(e), kBookT4, s);
  }
  static TT_INLINE Codes codes(const Block* b, int part) { return nibble_pairs(b[part].qs, kBookT4); }
};

// ---- One block of 256. ----

constexpr uint64_t kSixBits = 0x3f3f3f3f3f3f3f3full;
constexpr uint64_t kFourBits = 0x0f0f0f0f0f0f0f0full;
constexpr uint64_t kBits45 = 0x3030303030303030ull;  // where the upper two of six bits go

TT_INLINE uint64_t join(uint64_t low, uint64_t high) {
  return low | (high << 32);
}

// Bytes minus 32 without borrows between them; bytes are below 64.
TT_INLINE uint64_t minus_32(uint64_t bytes) {
  constexpr uint64_t kTops = 0x8080808080808080ull;
  return ((bytes | kTops) - 0x2020202020202020ull) ^ kTops;
}

// The eight 6-bit scales and mins of Q4_K and Q5_K, eight bytes at a time.
TT_INLINE void scales_k45(const uint8_t* packed, float d, float dmin, Scales& s) {
  const uint64_t u0 = load_u32(packed);
  const uint64_t u1 = load_u32(packed + 4);
  const uint64_t u2 = load_u32(packed + 8);
  const uint64_t tops = (join(u0, u1) >> 2) & kBits45;
  const uint64_t lows = join(u2, u2 >> 4) & kFourBits;
  const uint64_t late = tops | lows;  // scales, then mins, of groups 4-7
  v8_store(s.scale, v8_scale(v8_i8(join(u0 & kSixBits & 0xffffffffu, late)), d));
  s.min[0] = v8_scale(v8_i8(join(u1 & kSixBits & 0xffffffffu, late >> 32)), -dmin);
}

struct Q4_K {
  using Block = BlockQ4_K;
  static constexpr int kElems = 256;
  static constexpr int kGroup = 32;
  static constexpr bool kHasMin = true;
  static TT_INLINE void scales(const Block* b, Scales& s) {
    scales_k45(b->scales, load_f16(&b->d), load_f16(&b->dmin), s);
  }
  static TT_INLINE Codes codes(const Block* b, int part) {
    const uint8_t* p = b->qs + 32 * (part >> 1);
#if defined(__AVX512F__)
    return fields(p, 4 * (part & 1), kNibbles);
#else
    return linear_nibbles(p, 4 * (part & 1));
#endif
  }
};

struct Q5_K {
  using Block = BlockQ5_K;
  static constexpr int kElems = 256;
  static constexpr int kGroup = 32;
  static constexpr bool kHasMin = true;
  static TT_INLINE void scales(const Block* b, Scales& s) {
    scales_k45(b->scales, load_f16(&b->d), load_f16(&b->dmin), s);
  }
  static TT_INLINE Codes codes(const Block* b, int part) {
    const uint8_t* p = b->qs + 32 * (part >> 1);
#if defined(__AVX512F__)
    const Codes c = fields(p, 4 * (part & 1), kNibbles);
    return {{add_where(c.v[0], lanes_of(b->qh), part, 16.0f),
             add_where(c.v[1], lanes_of(b->qh + 16), part, 16.0f)}};
#else
    return widen(
        b32_or(b32_field(b32_load(p), 4 * (part & 1), 15), b32_field(b32_load(b->qh), part - 4, 16)));
#endif
  }
};

struct Q6_K {
  using Block = BlockQ6_K;
  static constexpr int kElems = 256;
  static constexpr int kGroup = 16;
  static constexpr bool kHasMin = false;
  static TT_INLINE void scales(const Block* b, Scales& s) {
    const float d = load_f16(&b->d);
    v8_store(s.scale, v8_scale(v8_i8(load_u64(b->scales)), d));
    v8_store(s.scale + 8, v8_scale(v8_i8(load_u64(b->scales + 8)), d));
  }
  static TT_INLINE Codes codes(const Block* b, int part) {
    const int n = part >> 2;
    const int k = part & 3;
    const uint8_t* low = b->ql + 64 * n + 32 * (k & 1);
    const uint8_t* high = b->qh + 32 * n;
    const int shift = 4 * (k >> 1);
#if defined(__AVX512F__)
    const Codes l = fields(low, shift, kNibbles);
    const Codes h = fields(high, 2 * k, kCrumbs16Minus32);
    return {{vadd(l.v[0], h.v[0]), vadd(l.v[1], h.v[1])}};
#else
    const B32 q = b32_or(b32_field(b32_load(low), shift, 15), b32_field(b32_load(high), 2 * k - 4, 48));
    return widen(b32_minus(q, 32));
#endif
  }
};

struct Q2_K {
  using Block = BlockQ2_K;
  static constexpr int kElems = 256;
  static constexpr int kGroup = 16;
  static constexpr bool kHasMin = true;
  static TT_INLINE void scales(const Block* b, Scales& s) {
    const float d = load_f16(&b->d);
    const float dmin = -load_f16(&b->dmin);
    TT_UNROLL
    for (int i = 0; i < 2; ++i) {
      const uint64_t u = load_u64(b->scales + 8 * i);
      v8_store(s.scale + 8 * i, v8_scale(v8_i8(u & kFourBits), d));
      s.min[i] = v8_scale(v8_i8((u >> 4) & kFourBits), dmin);
    }
  }
  static TT_INLINE Codes codes(const Block* b, int part) {
    const uint8_t* p = b->qs + 32 * (part >> 2);
#if defined(__AVX512F__)
    return fields(p, 2 * (part & 3), kCrumbs);
#else
    return widen(b32_field(b32_load(p), 2 * (part & 3), 3));
#endif
  }
};

struct Q3_K {
  using Block = BlockQ3_K;
  static constexpr int kElems = 256;
  static constexpr int kGroup = 16;
  static constexpr bool kHasMin = false;
  static TT_INLINE void scales(const Block* b, Scales& s) {
    const float d = load_f16(&b->d);
    const uint64_t low = load_u64(b->scales);
    const uint64_t h = load_u32(b->scales + 8);
    const uint64_t first = (low & kFourBits) | (join((h << 4) & 0xffffffffu, h << 2) & kBits45);
    const uint64_t second = ((low >> 4) & kFourBits) | (join(h, h >> 2) & kBits45);
    v8_store(s.scale, v8_scale(v8_i8(minus_32(first)), d));
    v8_store(s.scale + 8, v8_scale(v8_i8(minus_32(second)), d));
  }
  static TT_INLINE Codes codes(const Block* b, int part) {
    const uint8_t* p = b->qs + 32 * (part >> 2);
    const int shift = 2 * (part & 3);
#if defined(__AVX512F__)
    const Codes c = fields(p, shift, kCrumbsMinus4);
    return {{add_where(c.v[0], lanes_of(b->hmask), part, 4.0f),
             add_where(c.v[1], lanes_of(b->hmask + 16), part, 4.0f)}};
#else
    const B32 q = b32_or(b32_field(b32_load(p), shift, 3), b32_field(b32_load(b->hmask), part - 2, 4));
    return widen(b32_minus(q, 4));
#endif
  }
};

struct IQ4_XS {
  using Block = BlockIQ4_XS;
  static constexpr int kElems = 256;
  static constexpr int kGroup = 32;
  static constexpr bool kHasMin = kBookMins;
  static constexpr const CodeBook& kBook = kBookT16;
  // Spreads the 4-bit and the 2-bit fields to one byte per group.
  static TT_INLINE void scales(const Block* b, Scales& s) {
    uint64_t low = load_u32(b->scales_l);
    low = (low | (low << 16)) & 0x0000ffff0000ffffull;
    low = (low | (low << 8)) & 0x00ff00ff00ff00ffull;
    low = (low | (low << 4)) & kFourBits;
    uint64_t high = b->scales_h;
    high = (high | (high << 24)) & 0x000000ff000000ffull;
    high = (high | (high << 12)) & 0x000f000f000f000full;
    high = (high | (high << 6)) & 0x0303030303030303ull;
    book_scales(v8_scale(v8_i8(minus_32(low | (high << 4))), load_f16(&b->d)), kBookT16, s);
  }
  static TT_INLINE Codes codes(const Block* b, int part) { return nibble_pairs(b->qs + 16 * part, kBookT16); }
};
