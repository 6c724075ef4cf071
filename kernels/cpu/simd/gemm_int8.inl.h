// The int8 micro-kernels of gemm.inl.h, with VNNI of 512 or 256 bits, on the words of int8_words.inl.h.

#if defined(__AVX512F__)
constexpr int kInt8Rows = 7;  // 14 integer and 14 float accumulators, 2 weights, 1 broadcast of 32 registers
using Vi = __m512i;
TT_INLINE Vi vi_zero() {
  return _mm512_setzero_si512();
}
TT_INLINE Vi vi_set1(int32_t x) {
  return _mm512_set1_epi32(x);
}
TT_INLINE Vi vi_load(const float* p) {
  return _mm512_loadu_si512(p);
}
TT_INLINE Vi vi_dot(Vi acc, Vi w, Vi x) {
  return _mm512_dpbusd_epi32(acc, w, x);
}
TT_INLINE Vi vi_add(Vi a, Vi b) {
  return _mm512_add_epi32(a, b);
}
TT_INLINE Vi vi_times_128(Vi a) {
  return _mm512_maskz_slli_epi32(0xffff, a, 7);
}
TT_INLINE Vf vi_to_f32(Vi a) {
  return _mm512_maskz_cvtepi32_ps(0xffff, a);
}
#else
constexpr int kInt8Rows = 3;  // 6 integer and 6 float accumulators, 2 weights, 1 broadcast of 16 registers
using Vi = __m256i;
TT_INLINE Vi vi_zero() {
  return _mm256_setzero_si256();
}
TT_INLINE Vi vi_set1(int32_t x) {
  return _mm256_set1_epi32(x);
}
TT_INLINE Vi vi_load(const float* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
TT_INLINE Vi vi_dot(Vi acc, Vi w, Vi x) {
  return vb_dot(acc, w, x);
}
TT_INLINE Vi vi_add(Vi a, Vi b) {
  return _mm256_add_epi32(a, b);
}
TT_INLINE Vi vi_times_128(Vi a) {
  return _mm256_slli_epi32(a, 7);
}
TT_INLINE Vf vi_to_f32(Vi a) {
  return _mm256_cvtepi32_ps(a);
}
#endif

// dots += one digit of x times the codes of one group.
template <int kRows, int kGroup>
TT_INLINE void add_dots(const int32_t* x, const float* strip, Vi (&dots)[kRows][kNv]) {
  for (int64_t k = 0; k < kGroup / 4; ++k) {
    Vi w[kNv];
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) w[v] = vi_load(strip + k * kNr + v * kLanes);
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vi four = vi_set1(x[k * kRows + r]);
      TT_UNROLL
      for (int v = 0; v < kNv; ++v) dots[r][v] = vi_dot(dots[r][v], w[v], four);
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
    Vi dots[kRows][kNv];
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      TT_UNROLL
      for (int v = 0; v < kNv; ++v) dots[r][v] = vi_zero();
    }
    const int64_t word = g * (kGroup / 4);
    add_dots<kRows, kGroup>(x + word * kRows, strip + word * kNr, dots);
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vi start = kHasMin ? vi_zero() : vi_set1(x[(kXSums + g) * kRows + r]);
      TT_UNROLL
      for (int v = 0; v < kNv; ++v) {
        dots[r][v] = vi_times_128(dots[r][v]);
        if (!kHasMin) dots[r][v] = vi_add(dots[r][v], start);
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
        const Vf dot = vi_to_f32(dots[r][v]);
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
constexpr MultiplyFn kMultiplyInt8[] = {
    multiply_int8<1, kGroup, kHasMin>, multiply_int8<2, kGroup, kHasMin>, multiply_int8<3, kGroup, kHasMin>,
#if defined(__AVX512F__)
    multiply_int8<4, kGroup, kHasMin>, multiply_int8<5, kGroup, kHasMin>, multiply_int8<6, kGroup, kHasMin>,
    multiply_int8<7, kGroup, kHasMin>,
#endif
};

template <class Q>
constexpr GemmKernel kInt8Gemm = {
    kMultiplyInt8<Q::kGroup, Bytes<Q>::kHasMin>, kInt8Rows,       kInt8XWords<Q>, kInt8WWords<Q>,
    round_words<Q::kGroup, Bytes<Q>::kHasMin>,   unpack_words<Q>, nullptr,        kCodeOffset<Q>};

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
