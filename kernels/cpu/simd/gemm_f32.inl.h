// The f32 micro-kernel of gemm.inl.h: a word is an element.

#if defined(__AVX512F__)
constexpr int kF32Rows = 14;  // 28 accumulators, 2 weights, 1 broadcast of 32 registers
#elif defined(__AVX2__)
constexpr int kF32Rows = 6;  // 12 accumulators, 2 weights, 1 broadcast of 16 registers
#else
constexpr int kF32Rows = 12;  // 24 accumulators of 32 registers
#endif
static_assert(kF32Rows <= (kLanes == 4 ? 3 : 1) * kLanes);  // what pack_panel transposes

template <int kRows>
void multiply_f32(const float* panel, const float* strip, int64_t kc, float* sums, bool first) {
  Vf acc[kRows][kNv];
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) acc[r][v] = vzero();
  }
  for (int64_t k = 0; k < kc; ++k) {
    Vf w[kNv];
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) w[v] = vload(strip + k * kNr + v * kLanes);
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vf x = vset1(panel[k * kRows + r]);
      TT_UNROLL
      for (int v = 0; v < kNv; ++v) acc[r][v] = vfma(x, w[v], acc[r][v]);
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

constexpr MultiplyFn kMultiplyF32[] = {
    multiply_f32<1>,  multiply_f32<2>,  multiply_f32<3>, multiply_f32<4>,  multiply_f32<5>,  multiply_f32<6>,
#if !defined(__AVX2__) || defined(__AVX512F__)
    multiply_f32<7>,  multiply_f32<8>,  multiply_f32<9>, multiply_f32<10>, multiply_f32<11>, multiply_f32<12>,
#endif
#if defined(__AVX512F__)
    multiply_f32<13>, multiply_f32<14>,
#endif
};
static_assert(sizeof(kMultiplyF32) / sizeof(kMultiplyF32[0]) == kF32Rows);

void copy_row(const GemmKernel&, const float* x, int64_t kc, float* words) {
  memcpy(words, x, static_cast<size_t>(kc) * sizeof(float));
}

void decode_row(const GemmKernel& kernel, const void* w, int64_t kc, float* words) {
  kernel.decode(w, kc, words);
}

GemmKernel f32_gemm_kernel(Dtype dtype) {
  return {kMultiplyF32, kF32Rows, kKc, kKc, copy_row, decode_row, decode_fn(dtype), 0};
}
