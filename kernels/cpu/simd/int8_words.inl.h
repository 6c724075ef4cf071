// Rows as words of four neighbouring int8, for gemm.inl.h. Words of x: 64 of high digits, 64 of low ones,
// then the scales of 8 blocks, then per group of w's type what meets its mins (scale times sum, f32) or the
// offset of its codes (the int32 that a group's sum starts from). Words of w: 64 of codes, scales per group,
// mins per group.

constexpr int kCodeWords = kKc / 4;
constexpr int kXScales = 2 * kCodeWords;
constexpr int kXSums = kXScales + kKc / 32;

template <class Q>
constexpr int64_t kInt8XWords = round_up(kXSums + kKc / Q::kGroup, kLanes);
template <class Q>
constexpr int64_t kInt8WWords = kCodeWords + round_up(kKc / Q::kGroup * (Bytes<Q>::kHasMin ? 2 : 1), kLanes);

template <int kGroup, bool kHasMin>
void round_words(const GemmKernel& kernel, const float* x, int64_t kc, float* words) {
  auto* high = reinterpret_cast<int8_t*>(words);
  int8_t* low = high + kKc;
  for (int64_t b = 0; b < kc / 32; ++b) {
    const float scale = round_block(x + 32 * b, high + 32 * b, low + 32 * b);
    words[kXScales + b] = scale;
    for (int64_t g = b * 32 / kGroup; g < (b + 1) * 32 / kGroup; ++g) {
      const int32_t sum = sum_of(high + g * kGroup, low + g * kGroup, kGroup);
      if (kHasMin) {
        words[kXSums + g] = scale * static_cast<float>(sum);
      } else {
        const int32_t start = -sum * kernel.offset;
        memcpy(words + kXSums + g, &start, sizeof(start));
      }
    }
  }
}

// Vector i of a super-block to its place among the codes, in natural order; x86 wants them unsigned.
#if defined(__AVX512F__)
template <class Q>
constexpr int kCodeOffset = Bytes<Q>::kOffset;
template <class Q>
TT_INLINE void unpack_codes(const typename Q::Block* blocks, int i, char* codes) {
  const Vb v = Bytes<Q>::load(blocks, i);
  const __m128i pieces[4] = {
      _mm512_maskz_extracti32x4_epi32(0xf, v, 0), _mm512_maskz_extracti32x4_epi32(0xf, v, 1),
      _mm512_maskz_extracti32x4_epi32(0xf, v, 2), _mm512_maskz_extracti32x4_epi32(0xf, v, 3)};
  TT_UNROLL
  for (int j = 0; j < 4; ++j) {
    const int to = natural_piece<Bytes<Q>::kOrder>(4 * i + j);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16 * to), pieces[j]);
  }
}
#elif defined(__ARM_NEON)
template <class Q>
constexpr int kCodeOffset = Bytes<Q>::kOffset;  // none: codes are signed
template <class Q>
TT_INLINE void unpack_codes(const typename Q::Block* blocks, int i, char* codes) {
  const Vb v = Bytes<Q>::load(blocks, i);
  vst1q_u8(reinterpret_cast<uint8_t*>(codes) + 32 * i, v.a);
  vst1q_u8(reinterpret_cast<uint8_t*>(codes) + 32 * i + 16, v.b);
}
#else
template <class Q>
constexpr int kCodeOffset = Bytes<Q>::kFull ? 128 : Bytes<Q>::kOffset;
template <class Q>
TT_INLINE void unpack_codes(const typename Q::Block* blocks, int i, char* codes) {
  Vb v = Bytes<Q>::load(blocks, i);
  if (Bytes<Q>::kFull) v = _mm256_xor_si256(v, _mm256_set1_epi8(-128));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + 32 * i), v);
}
#endif

template <class Q>
void unpack_words(const GemmKernel&, const void* w, int64_t kc, float* words) {
  for_each_super<Q>(w, kc, [&](const typename Q::Block* blocks, int64_t) TT_LAMBDA_INLINE {
    auto* codes = reinterpret_cast<char*>(words);
    TT_UNROLL
    for (int i = 0; i < kVectors; ++i) unpack_codes<Q>(blocks, i, codes);
    constexpr int kGroups = kKc / Q::kGroup;
    Scales s;
    Q::scales(blocks, s);
    float* scales = words + kCodeWords;
    memcpy(scales, s.scale, kGroups * sizeof(float));
    if (!Bytes<Q>::kHasMin) return;
    v8_store(scales + kGroups, s.min[0]);
    if (kGroups == 16) v8_store(scales + kGroups + 8, s.min[1]);
  });
}
