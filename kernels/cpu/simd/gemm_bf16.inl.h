// The bf16 micro-kernel of gemm.inl.h, with AVX512_BF16, on the words of bf16_words.inl.h.

constexpr int kBf16Rows = 14;  // 28 accumulators, 2 weights, 1 broadcast of 32 registers

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

GemmKernel bf16_gemm_kernel(Dtype dtype) {
  return {kMultiplyBf16,        kBf16Rows,        kBf16Words, kBf16Words, narrow_row,
          bf16_words_fn(dtype), decode_fn(dtype), 0};
}
