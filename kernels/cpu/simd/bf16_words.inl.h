// Rows as words of two neighbouring elements in bf16, for gemm.inl.h.

constexpr int64_t kBf16Words = kKc / 2;

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
