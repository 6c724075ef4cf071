// The int8 micro-kernels of gemm.inl.h, with AVX-512 VNNI, on the words of int8_words.inl.h.

constexpr int kInt8Rows = 7;  // 14 integer and 14 float accumulators, 2 weights, 1 broadcast of 32 registers

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

template <class Q>
constexpr GemmKernel kInt8Gemm = {
    kMultiplyInt8<Q::kGroup, Bytes<Q>::kHasMin>, kInt8Rows,       kInt8XWords<Q>, kInt8WWords<Q>,
    round_words<Q::kGroup, Bytes<Q>::kHasMin>,   unpack_words<Q>, nullptr,        Bytes<Q>::kOffset};

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
