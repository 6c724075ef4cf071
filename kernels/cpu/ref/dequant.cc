// Formulas of spec 2.2-2.4, one block at a time, in the order of dtypes.def.
#include "kernels/cpu/ref/common.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::ref {
namespace {

constexpr int8_t kT16[16] = {TT_T16_VALUES};
constexpr int8_t kT4[16] = {TT_T4_VALUES};

// Nibble of element i of a 32-element block: i and i + 16 share a byte.
int32_t nibble(const uint8_t* qs, int32_t i) {
  return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}

void dequantize_block(const BlockQ4_0& b, float* y) {
  for (int32_t i = 0; i < 32; ++i) y[i] = f32_from_f16(b.d) * static_cast<float>(nibble(b.qs, i) - 8);
}

void dequantize_block(const BlockQ4_1& b, float* y) {
  for (int32_t i = 0; i < 32; ++i) {
    y[i] = f32_from_f16(b.d) * static_cast<float>(nibble(b.qs, i)) + f32_from_f16(b.m);
  }
}

void dequantize_block(const BlockQ5_0& b, float* y) {
  for (int32_t i = 0; i < 32; ++i) {
    const int32_t q = nibble(b.qs, i) | static_cast<int32_t>(((b.qh >> i) & 1u) << 4);
    y[i] = f32_from_f16(b.d) * static_cast<float>(q - 16);
  }
}

void dequantize_block(const BlockQ5_1& b, float* y) {
  for (int32_t i = 0; i < 32; ++i) {
    const int32_t q = nibble(b.qs, i) | static_cast<int32_t>(((b.qh >> i) & 1u) << 4);
    y[i] = f32_from_f16(b.d) * static_cast<float>(q) + f32_from_f16(b.m);
  }
}

void dequantize_block(const BlockQ8_0& b, float* y) {
  for (int32_t i = 0; i < 32; ++i) y[i] = f32_from_f16(b.d) * static_cast<float>(b.qs[i]);
}

void dequantize_block(const BlockQ2_K& b, float* y) {
  for (int32_t i = 0; i < 256; ++i) {
    const int32_t n = i / 128;
    const int32_t j = (i % 128) / 32;
    const int32_t q = (b.qs[32 * n + i % 32] >> (2 * j)) & 3;
    const uint8_t s = b.scales[i / 16];
    y[i] = f32_from_f16(b.d) * static_cast<float>(s & 15) * static_cast<float>(q) -
           f32_from_f16(b.dmin) * static_cast<float>(s >> 4);
  }
}

void dequantize_block(const BlockQ3_K& b, float* y) {
  for (int32_t i = 0; i < 256; ++i) {
    const int32_t n = i / 128;
    const int32_t j = (i % 128) / 32;
    const int32_t l = i % 32;
    const int32_t high = (b.hmask[l] >> (4 * n + j)) & 1;
    const int32_t q = ((b.qs[32 * n + l] >> (2 * j)) & 3) - (high != 0 ? 0 : 4);
    y[i] = f32_from_f16(b.d) * static_cast<float>(unpack_scale_q3k(b.scales, i / 16)) * static_cast<float>(q);
  }
}

// Q4_K and Q5_K: nibble of element i, groups of 32 alternate between the halves of 32 bytes.
int32_t group_nibble(const uint8_t* qs, int32_t i) {
  const int32_t g = i / 32;
  const uint8_t byte = qs[32 * (g / 2) + i % 32];
  return (g & 1) == 0 ? byte & 15 : byte >> 4;
}

float scale_min_value(F16Bits d, F16Bits dmin, const uint8_t* scales, int32_t g, int32_t q) {
  int32_t scale = 0;
  int32_t min = 0;
  unpack_scale_min(scales, g, &scale, &min);
  return f32_from_f16(d) * static_cast<float>(scale) * static_cast<float>(q) -
         f32_from_f16(dmin) * static_cast<float>(min);
}

void dequantize_block(const BlockQ4_K& b, float* y) {
  for (int32_t i = 0; i < 256; ++i) {
    y[i] = scale_min_value(b.d, b.dmin, b.scales, i / 32, group_nibble(b.qs, i));
  }
}

void dequantize_block(const BlockQ5_K& b, float* y) {
  for (int32_t i = 0; i < 256; ++i) {
    const int32_t q = group_nibble(b.qs, i) | (((b.qh[i % 32] >> (i / 32)) & 1) << 4);
    y[i] = scale_min_value(b.d, b.dmin, b.scales, i / 32, q);
  }
}

void dequantize_block(const BlockQ6_K& b, float* y) {
  for (int32_t i = 0; i < 256; ++i) {
    const int32_t n = i / 128;
    const int32_t k = (i % 128) / 32;
    const int32_t l = i % 32;
    const uint8_t byte = b.ql[64 * n + 32 * (k & 1) + l];
    const int32_t low = k < 2 ? byte & 15 : byte >> 4;
    const int32_t q = low | (((b.qh[32 * n + l] >> (2 * k)) & 3) << 4);
    y[i] = f32_from_f16(b.d) * static_cast<float>(b.scales[i / 16]) * static_cast<float>(q - 32);
  }
}

void dequantize_block(const BlockIQ4_NL& b, float* y) {
  for (int32_t i = 0; i < 32; ++i) y[i] = f32_from_f16(b.d) * static_cast<float>(kT16[nibble(b.qs, i)]);
}

void dequantize_block(const BlockIQ4_XS& b, float* y) {
  for (int32_t i = 0; i < 256; ++i) {
    const int32_t scale = unpack_scale_iq4xs(b.scales_h, b.scales_l, i / 32);
    const int32_t index = nibble(b.qs + 16 * (i / 32), i % 32);
    y[i] = f32_from_f16(b.d) * static_cast<float>(scale) * static_cast<float>(kT16[index]);
  }
}

void dequantize_block(const BlockMXFP4& b, float* y) {
  for (int32_t i = 0; i < 32; ++i) y[i] = f32_from_e8m0_half(b.e) * static_cast<float>(kT4[nibble(b.qs, i)]);
}

template <typename Block>
void dequantize_blocks(const void* src, int64_t cols, int32_t block_elems, float* out) {
  const auto* blocks = static_cast<const Block*>(src);
  for (int64_t i = 0; i < cols / block_elems; ++i) dequantize_block(blocks[i], out + i * block_elems);
}

}  // namespace

void dequantize_row(Dtype dtype, const void* src, int64_t cols, float* out) {
  switch (dtype) {
    case Dtype::kF32:
      for (int64_t i = 0; i < cols; ++i) out[i] = static_cast<const float*>(src)[i];
      return;
    case Dtype::kF16:
      for (int64_t i = 0; i < cols; ++i) out[i] = f32_from_f16(static_cast<const F16Bits*>(src)[i]);
      return;
    case Dtype::kBF16:
      for (int64_t i = 0; i < cols; ++i) out[i] = f32_from_bf16(static_cast<const Bf16Bits*>(src)[i]);
      return;
#define TT_BLOCKS(name, elems)                             \
  case Dtype::k##name:                                     \
    dequantize_blocks<Block##name>(src, cols, elems, out); \
    return;
      TT_BLOCKS(Q4_0, 32)
      TT_BLOCKS(Q4_1, 32)
      TT_BLOCKS(Q5_0, 32)
      TT_BLOCKS(Q5_1, 32)
      TT_BLOCKS(Q8_0, 32)
      TT_BLOCKS(Q2_K, 256)
      TT_BLOCKS(Q3_K, 256)
      TT_BLOCKS(Q4_K, 256)
      TT_BLOCKS(Q5_K, 256)
      TT_BLOCKS(Q6_K, 256)
      TT_BLOCKS(IQ4_NL, 32)
      TT_BLOCKS(IQ4_XS, 256)
      TT_BLOCKS(MXFP4, 32)
#undef TT_BLOCKS
    default:
      // The argument checks admit kWeight only; a weight dtype without a case must not pass unseen.
      for (int64_t i = 0; i < cols; ++i) out[i] = NAN;
  }
}

}  // namespace trimtok::ref
