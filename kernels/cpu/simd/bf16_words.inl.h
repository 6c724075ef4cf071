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

// F16 by way of registers alone: towers are stored in it.
void narrow_f16_row(const GemmKernel& kernel, const void* w, int64_t kc, float* words) {
  const auto* p = static_cast<const F16::Element*>(w);
  int64_t k = 0;
  for (; k + 2 * kLanes <= kc; k += 2 * kLanes) {
    const __m512bh pairs = _mm512_cvtne2ps_pbh(F16::load(p + k + kLanes), F16::load(p + k));
    _mm512_storeu_si512(words + k / 2, reinterpret_cast<__m512i>(pairs));
  }
  if (k == kc) return;
  float rest[2 * kLanes];
  kernel.decode(p + k, kc - k, rest);
  narrow_row(kernel, rest, kc - k, words + k / 2);
}

void decode_bf16_row(const GemmKernel& kernel, const void* w, int64_t kc, float* words) {
  kernel.decode(w, kc, words);
  narrow_row(kernel, words, kc, words);
}

using WordsFn = void (*)(const GemmKernel& kernel, const void* w, int64_t kc, float* words);
WordsFn bf16_words_fn(Dtype dtype) {
  return dtype == Dtype::kF16 ? narrow_f16_row : decode_bf16_row;
}
