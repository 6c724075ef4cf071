// The bf16 micro-kernel of gemm.inl.h, with AVX512_BF16: a word is two neighbouring elements.

constexpr int kBf16Rows = 14;  // 28 accumulators, 2 weights, 1 broadcast of 32 registers
constexpr int64_t kBf16Words = kKc / 2;

template <int kRows>
void multiply_bf16(const float* panel, const float* strip, int64_t kc, float* sums, bool first) {
  Vf acc[kRows][kNv];
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) acc[r][v] = vzero();
  }
  for (int64_t k = 0; k < ceil_div(kc, 2); ++k) {
    __m512bh w[kNv];
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) w[v] = reinterpret_cast<__m512bh>(vload(strip + k * kNr + v * kLanes));
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const auto x = reinterpret_cast<__m512bh>(vset1(panel[k * kRows + r]));
      TT_UNROLL
      for (int v = 0; v < kNv; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], w[v], x);
    }
  }
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) {
      float* p = sums + r * kNr + v * kLanes;
      vstore(p, first ? acc[r][v] : vadd(vload(p), acc[r][v]));
    }
  }
}

constexpr MultiplyFn kMultiplyBf16[kBf16Rows] = {
    multiply_bf16<1>,  multiply_bf16<2>,  multiply_bf16<3>,  multiply_bf16<4>, multiply_bf16<5>,
    multiply_bf16<6>,  multiply_bf16<7>,  multiply_bf16<8>,  multiply_bf16<9>, multiply_bf16<10>,
    multiply_bf16<11>, multiply_bf16<12>, multiply_bf16<13>, multiply_bf16<14>};

// kc floats to pairs, the last one padded with a zero; may be in place.
void narrow_row(const GemmKernel&, const float* x, int64_t kc, float* words) {
  for (int64_t k = 0; k < kc; k += 2 * kLanes) {
    const int64_t n = kc - k;
    const Vf low = vload_n(x + k, imin(kLanes, n));
    const Vf high = n > kLanes ? vload_n(x + k + kLanes, imin(kLanes, n - kLanes)) : vzero();
    _mm512_storeu_si512(words + k / 2, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }
}

void decode_bf16_row(const GemmKernel& kernel, const void* w, int64_t kc, float* words) {
  kernel.decode(w, kc, words);
  narrow_row(kernel, words, kc, words);
}

GemmKernel bf16_gemm_kernel(Dtype dtype) {
  return {kMultiplyBf16, kBf16Rows, kBf16Words, kBf16Words, narrow_row, decode_bf16_row, decode_fn(dtype), 0};
}
