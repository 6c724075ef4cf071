// The int8 micro-kernels of gemm.inl.h, with AVX-512 VNNI. Words of x: 64 of high digits, 64 of low ones,
// then the scales of 8 blocks, then per group of w's type what meets its mins (scale times sum, f32) or the
// offset of its codes (the int32 that a group's sum starts from). Words of w: 64 of codes, scales per group,
// mins per group.

constexpr int kInt8Rows = 7;  // 14 integer and 14 float accumulators, 2 weights, 1 broadcast of 32 registers
constexpr int kCodeWords = kKc / 4;
constexpr int kXScales = 2 * kCodeWords;
constexpr int kXSums = kXScales + kKc / 32;

// dots += one digit of x times the codes of one group.
template <int kRows, int kGroup>
TT_INLINE void add_dots(const int32_t* x, const float* strip, __m512i (&dots)[kRows][kNv]) {
  for (int64_t k = 0; k < kGroup / 4; ++k) {
    __m512i w[kNv];
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) w[v] = _mm512_loadu_si512(strip + k * kNr + v * kLanes);
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const __m512i four = _mm512_set1_epi32(x[k * kRows + r]);
      TT_UNROLL
      for (int v = 0; v < kNv; ++v) dots[r][v] = _mm512_dpbusd_epi32(dots[r][v], w[v], four);
    }
  }
}

template <int kRows, int kGroup, bool kHasMin>
void multiply_int8(const float* panel, const float* strip, int64_t kc, float* sums, bool first) {
  constexpr int kGroups = kKc / kGroup;
  const auto* x = reinterpret_cast<const int32_t*>(panel);
  const float* scales = strip + kCodeWords * kNr;
  const float* mins = scales + kGroups * kNr;
  Vf acc[kRows][kNv];
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) acc[r][v] = first ? vzero() : vload(sums + r * kNr + v * kLanes);
  }
  for (int64_t g = 0; g < kc / kGroup; ++g) {
    __m512i dots[kRows][kNv];
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      TT_UNROLL
      for (int v = 0; v < kNv; ++v) dots[r][v] = _mm512_setzero_si512();
    }
    const int64_t word = g * (kGroup / 4);
    add_dots<kRows, kGroup>(x + word * kRows, strip + word * kNr, dots);
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const __m512i start = kHasMin ? _mm512_setzero_si512() : _mm512_set1_epi32(x[(kXSums + g) * kRows + r]);
      TT_UNROLL
      for (int v = 0; v < kNv; ++v) {
        dots[r][v] = _mm512_maskz_slli_epi32(0xffff, dots[r][v], 7);
        if (!kHasMin) dots[r][v] = _mm512_add_epi32(dots[r][v], start);
      }
    }
    add_dots<kRows, kGroup>(x + (kCodeWords + word) * kRows, strip + word * kNr, dots);
    Vf scale[kNv];
    Vf min[kNv];
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) {
      scale[v] = vload(scales + g * kNr + v * kLanes);
      min[v] = kHasMin ? vload(mins + g * kNr + v * kLanes) : vzero();
    }
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vf x_scale = vset1(panel[(kXScales + g * kGroup / 32) * kRows + r]);
      TT_UNROLL
      for (int v = 0; v < kNv; ++v) {
        const Vf dot = _mm512_maskz_cvtepi32_ps(0xffff, dots[r][v]);
        acc[r][v] = vfma(dot, vmul(scale[v], x_scale), acc[r][v]);
        if (kHasMin) acc[r][v] = vfma(min[v], vset1(panel[(kXSums + g) * kRows + r]), acc[r][v]);
      }
    }
  }
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) vstore(sums + r * kNr + v * kLanes, acc[r][v]);
  }
}

template <int kGroup, bool kHasMin>
constexpr MultiplyFn kMultiplyInt8[kInt8Rows] = {
    multiply_int8<1, kGroup, kHasMin>, multiply_int8<2, kGroup, kHasMin>, multiply_int8<3, kGroup, kHasMin>,
    multiply_int8<4, kGroup, kHasMin>, multiply_int8<5, kGroup, kHasMin>, multiply_int8<6, kGroup, kHasMin>,
    multiply_int8<7, kGroup, kHasMin>};

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

template <class Q>
void unpack_words(const GemmKernel&, const void* w, int64_t kc, float* words) {
  for_each_super<Q>(w, kc, [&](const typename Q::Block* blocks, int64_t) TT_LAMBDA_INLINE {
    auto* codes = reinterpret_cast<char*>(words);
    TT_UNROLL
    for (int i = 0; i < kVectors; ++i) {
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

template <class Q>
constexpr GemmKernel kInt8Gemm = {
    kMultiplyInt8<Q::kGroup, Bytes<Q>::kHasMin>,
    kInt8Rows,
    round_up(kXSums + kKc / Q::kGroup, kLanes),
    kCodeWords + round_up(kKc / Q::kGroup * (Bytes<Q>::kHasMin ? 2 : 1), kLanes),
    round_words<Q::kGroup, Bytes<Q>::kHasMin>,
    unpack_words<Q>,
    nullptr,
    Bytes<Q>::kOffset};

GemmKernel int8_gemm_kernel(Dtype dtype) {
  switch (dtype) {
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return kInt8Gemm<name>;
    TT_BLOCK_TYPES(TT_CASE)
#undef TT_CASE
    default:
      return {};
  }
}
