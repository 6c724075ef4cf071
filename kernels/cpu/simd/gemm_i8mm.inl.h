// The int8 micro-kernels of gemm.inl.h with the matrix products of AArch64 (smmla: two rows of eight bytes by
// two), on the words of int8_words.inl.h. Both digits of a row of x are the two rows of one operand; two
// outputs are the other.

constexpr int kI8mmRows = 5;  // 20 integer accumulators, 4 weights, 5 of x of 32 registers

// slot: eight bytes of high digits and the same of low ones, [word / 2][row], then the other words,
// [word][row].
void pack_digits(const float* words, int64_t rows, int64_t n_words, float* slot) {
  for (int64_t k = 0; k < kCodeWords; k += 2) {
    for (int64_t r = 0; r < rows; ++r, slot += 4) {
      memcpy(slot, words + r * kRowWords + k, 8);
      memcpy(slot + 2, words + r * kRowWords + kCodeWords + k, 8);
    }
  }
  for (int64_t k = kXScales; k < n_words; ++k) {
    for (int64_t r = 0; r < rows; ++r, ++slot) memcpy(slot, words + r * kRowWords + k, sizeof(*slot));
  }
}

// dots[r][j] += (high digits . output 2j, high . 2j + 1, low . 2j, low . 2j + 1) over a group.
template <int kRows, int kGroup>
TT_INLINE void multiply_digits(const float* x, const float* strip, int32x4_t (&dots)[kRows][kNr / 2]) {
#pragma GCC unroll 1  // unrolled, GCC reads ahead until it runs out of registers
  for (int64_t pair = 0; pair < kGroup / 8; ++pair) {
    int8x16_t w[kNr / 2];
    TT_UNROLL
    for (int v = 0; v < kNv; ++v) {
      const Vf first = vload(strip + v * kLanes);
      const Vf second = vload(strip + kNr + v * kLanes);
      w[2 * v] = vreinterpretq_s8_f32(vzip1q_f32(first, second));
      w[2 * v + 1] = vreinterpretq_s8_f32(vzip2q_f32(first, second));
    }
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int8x16_t digits = vreinterpretq_s8_f32(vload(x + 4 * r));
      TT_UNROLL
      for (int j = 0; j < kNr / 2; ++j) dots[r][j] = vmmlaq_s32(dots[r][j], digits, w[j]);
    }
    x += 4 * kRows;
    strip += 2 * kNr;
  }
}

template <int kRows, int kGroup, bool kHasMin>
void multiply_i8mm(const float* panel, const float* strip, int64_t kc, float* sums, bool first) {
  constexpr int kGroups = kKc / kGroup;
  const float* scales = strip + kCodeWords * kNr;
  const float* mins = scales + kGroups * kNr;
  for (int64_t g = 0; g < kc / kGroup; ++g) {
    int32x4_t dots[kRows][kNr / 2];
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      TT_UNROLL
      for (int j = 0; j < kNr / 2; ++j) dots[r][j] = vdupq_n_s32(0);
    }
    const int64_t word = g * (kGroup / 4);
    multiply_digits<kRows, kGroup>(panel + 2 * word * kRows, strip + word * kNr, dots);
    const bool fresh = first && g == 0;
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vf x_scale = vset1(panel[(kXScales + g * kGroup / 32) * kRows + r]);
      TT_UNROLL
      for (int v = 0; v < kNv; ++v) {
        const int64x2_t low_pair = vreinterpretq_s64_s32(dots[r][2 * v]);
        const int64x2_t high_pair = vreinterpretq_s64_s32(dots[r][2 * v + 1]);
        const int32x4_t high = vreinterpretq_s32_s64(vzip1q_s64(low_pair, high_pair));
        const int32x4_t low = vreinterpretq_s32_s64(vzip2q_s64(low_pair, high_pair));
        const Vf dot = vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(high, 7), low));
        float* p = sums + r * kNr + v * kLanes;
        Vf acc = fresh ? vzero() : vload(p);
        acc = vfma(dot, vmul(vload(scales + g * kNr + v * kLanes), x_scale), acc);
        if (kHasMin) {
          acc = vfma(vload(mins + g * kNr + v * kLanes), vset1(panel[(kXSums + g) * kRows + r]), acc);
        }
        vstore(p, acc);
      }
    }
  }
}

template <int kGroup, bool kHasMin>
constexpr MultiplyFn kMultiplyI8mm[kI8mmRows] = {
    multiply_i8mm<1, kGroup, kHasMin>, multiply_i8mm<2, kGroup, kHasMin>, multiply_i8mm<3, kGroup, kHasMin>,
    multiply_i8mm<4, kGroup, kHasMin>, multiply_i8mm<5, kGroup, kHasMin>};

template <class Q>
constexpr GemmKernel kI8mmKernel = {kMultiplyI8mm<Q::kGroup, Bytes<Q>::kHasMin>,
                                    kI8mmRows,
                                    kInt8XWords<Q>,
                                    kInt8WWords<Q>,
                                    round_words<Q::kGroup, Bytes<Q>::kHasMin>,
                                    unpack_words<Q>,
                                    nullptr,
                                    kCodeOffset<Q>,
                                    1,
                                    kTaskRows,
                                    pack_digits};

// Without a kernel where w is not of a block format.
GemmKernel i8mm_kernel(Dtype dtype) {
  switch (dtype) {
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return kI8mmKernel<name>;
    TT_BLOCK_TYPES(TT_CASE)
#undef TT_CASE
    default:
      return {};
  }
}
