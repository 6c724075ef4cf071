// Packed GGUF blocks (spec 2.2-2.4) and exact conversions of the small float formats they are made of.
// Shared by every CPU ISA and by CUDA, so: plain structs, forced inlining, no standard-library templates.
#pragma once

#include <cstdint>
#include <cstring>

#include "trimtok/view.h"

namespace trimtok {

using F16Bits = uint16_t;   // IEEE binary16
using Bf16Bits = uint16_t;  // upper half of a binary32
using E8m0Bits = uint8_t;   // power of two, bias 127

#pragma pack(push, 1)

// Nibble order of every 32-element format: element i is the low nibble of qs[i], i + 16 the high one.
struct BlockQ4_0 {
  F16Bits d;
  uint8_t qs[16];
};
struct BlockQ4_1 {
  F16Bits d;
  F16Bits m;
  uint8_t qs[16];
};
struct BlockQ5_0 {
  F16Bits d;
  uint32_t qh;  // bit i: bit 4 of element i
  uint8_t qs[16];
};
struct BlockQ5_1 {
  F16Bits d;
  F16Bits m;
  uint32_t qh;
  uint8_t qs[16];
};
struct BlockQ8_0 {
  F16Bits d;
  int8_t qs[32];
};
struct BlockIQ4_NL {
  F16Bits d;
  uint8_t qs[16];
};
struct BlockMXFP4 {
  E8m0Bits e;
  uint8_t qs[16];
};

struct BlockQ2_K {
  uint8_t scales[16];  // low nibble scale, high nibble min
  uint8_t qs[64];
  F16Bits d;
  F16Bits dmin;
};
struct BlockQ3_K {
  uint8_t hmask[32];
  uint8_t qs[64];
  uint8_t scales[12];  // sixteen 6-bit scales
  F16Bits d;
};
struct BlockQ4_K {
  F16Bits d;
  F16Bits dmin;
  uint8_t scales[12];  // eight 6-bit scales and mins, see unpack_scale_min
  uint8_t qs[128];
};
struct BlockQ5_K {
  F16Bits d;
  F16Bits dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};
struct BlockQ6_K {
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  F16Bits d;
};
struct BlockIQ4_XS {
  F16Bits d;
  uint16_t scales_h;
  uint8_t scales_l[4];
  uint8_t qs[128];
};

#pragma pack(pop)

// The structs and dtypes.def must agree, or a row's stride would disagree with its contents.
template <Dtype>
struct BlockBytes;
#define TT_DTYPE(name, id, block_elems, block_bytes, use) \
  template <>                                             \
  struct BlockBytes<Dtype::k##name> {                     \
    static constexpr int32_t value = block_bytes;         \
  };
#include "trimtok/dtypes.def"
#undef TT_DTYPE
#define TT_BLOCK_SIZE(name) \
  static_assert(sizeof(Block##name) == BlockBytes<Dtype::k##name>::value && alignof(Block##name) == 1)
TT_BLOCK_SIZE(Q4_0);
TT_BLOCK_SIZE(Q4_1);
TT_BLOCK_SIZE(Q5_0);
TT_BLOCK_SIZE(Q5_1);
TT_BLOCK_SIZE(Q8_0);
TT_BLOCK_SIZE(IQ4_NL);
TT_BLOCK_SIZE(MXFP4);
TT_BLOCK_SIZE(Q2_K);
TT_BLOCK_SIZE(Q3_K);
TT_BLOCK_SIZE(Q4_K);
TT_BLOCK_SIZE(Q5_K);
TT_BLOCK_SIZE(Q6_K);
TT_BLOCK_SIZE(IQ4_XS);
#undef TT_BLOCK_SIZE

// Code books as X-lists, so that each user can lay them out as it needs (array, byte shuffle, constant
// memory).
#define TT_T16_VALUES \
  -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113    // IQ4_NL, IQ4_XS
#define TT_T4_VALUES 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12  // MXFP4

TT_INLINE float f32_from_bits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof(f));
  return f;
}

TT_INLINE uint32_t bits_from_f32(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof(bits));
  return bits;
}

// Exact for every input, subnormals and infinities included; NaNs come out quiet, as from hardware.
TT_INLINE float f32_from_f16(F16Bits h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31u;
  const uint32_t mantissa = h & 1023u;
  if (exponent == 31) {
    return f32_from_bits(sign | 0x7f800000u | (mantissa << 13) | (mantissa != 0 ? 0x00400000u : 0u));
  }
  if (exponent == 0) {
    // mantissa * 2^-24: both factors and the product are exact in f32.
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return f32_from_bits(sign | bits_from_f32(magnitude));
  }
  return f32_from_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

// Round to nearest even, overflow to infinity, subnormals kept, NaNs quiet with their upper payload.
TT_INLINE F16Bits f16_from_f32(float f) {
  const uint32_t bits = bits_from_f32(f);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<F16Bits>(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
  }
  if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
    return static_cast<F16Bits>(sign | 0x7c00u);
  }
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 lets the FPU round at bit 2^-24
    const float shifted = f32_from_bits(magnitude) + 0.5f;
    return static_cast<F16Bits>(sign | (bits_from_f32(shifted) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<F16Bits>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

TT_INLINE float f32_from_bf16(Bf16Bits b) {
  return f32_from_bits(static_cast<uint32_t>(b) << 16);
}

// Round to nearest even; NaNs are made quiet (spec 2.1).
TT_INLINE Bf16Bits bf16_from_f32(float f) {
  const uint32_t bits = bits_from_f32(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return static_cast<Bf16Bits>((bits >> 16) | 0x40u);
  }
  return static_cast<Bf16Bits>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// 2^(e - 128): half of the E8M0 scale, because TT_T4_VALUES are doubled (spec 2.2). Subnormal for e < 2.
TT_INLINE float f32_from_e8m0_half(E8m0Bits e) {
  return f32_from_bits(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

// Six-bit scale and min number g (0..7) of a Q4_K or Q5_K super-block (spec 2.3).
TT_INLINE void unpack_scale_min(const uint8_t* s, int32_t g, int32_t* scale, int32_t* min) {
  if (g < 4) {
    *scale = s[g] & 63;
    *min = s[g + 4] & 63;
  } else {
    *scale = (s[g + 4] & 15) | ((s[g - 4] >> 6) << 4);
    *min = (s[g + 4] >> 4) | ((s[g] >> 6) << 4);
  }
}

// Six-bit scale number k (0..15) of a Q3_K super-block, bias removed: -32..31 (spec 2.3).
TT_INLINE int32_t unpack_scale_q3k(const uint8_t* s, int32_t k) {
  const int32_t low = k < 8 ? (s[k] & 15) : (s[k - 8] >> 4);
  const int32_t high = (s[8 + (k & 3)] >> (2 * (k >> 2))) & 3;
  return (low | (high << 4)) - 32;
}

// Scale of group g (0..7) of an IQ4_XS super-block, bias removed: -32..31 (spec 2.4).
TT_INLINE int32_t unpack_scale_iq4xs(uint16_t scales_h, const uint8_t* scales_l, int32_t g) {
  const int32_t low = (scales_l[g >> 1] >> (4 * (g & 1))) & 15;
  return (low | (((scales_h >> (2 * g)) & 3) << 4)) - 32;
}

}  // namespace trimtok
