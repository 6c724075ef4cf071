// Stored weights in registers, 32 consecutive elements (a group) a thread, shared by gather, mat-vec and
// GEMM.
//
//   Group<dtype, aligned> group;
//   group.load(row, g);              // raw words of elements [32 g, 32 g + 32), and their scales
//   codes_of(group, j, q);           // elements 8 j ... 8 j + 7 of the group, j < 4, as exact small numbers
//   signed_codes(group, i);          // elements 4 i ... 4 i + 3, i < 8, the same numbers as four int8
//   value = group.scale[s] * q + group.min[s], s = kScales == 1 ? 0 : j / 2
//
// load and codes_of are apart so that a kernel can have the next group's loads under way while it works.
// Every product is exact in f32 and only the sum with min rounds, so values equal those of the reference bit
// for bit. `aligned` is blocks_aligned() below: without it words are put together from whatever alignment
// there is. Dense types (F32, F16, BF16) have no groups; see dense_value().
#pragma once

#include <type_traits>

#include "kernels/cuda/device.cuh"
#include "trimtok/quant_blocks.h"

namespace trimtok::cuda {

// Bytes that a block's words are aligned to where blocks_aligned(): what the format's size allows.
constexpr int natural_alignment(Dtype type) {
  switch (type) {
    case Dtype::kQ4_K:
    case Dtype::kQ5_K:
      return 16;
    case Dtype::kIQ4_XS:
      return 8;
    case Dtype::kF32:
    case Dtype::kQ2_K:
      return 4;
    case Dtype::kMXFP4:
      return 1;
    default:
      return 2;
  }
}

// Whether Group<type, true> may be used: true for every tensor that the engine uploads.
inline bool blocks_aligned(const ConstMatrix& m) {
  const int natural = natural_alignment(m.dtype);
  const auto address = reinterpret_cast<uintptr_t>(m.data);
  return address % static_cast<size_t>(natural < 4 ? 4 : natural) == 0 && m.stride % natural == 0;
}

// ---- Words from memory of a known alignment. ----

// Bytes [p, p + 4 kWords) as little-endian words, p a multiple of kAlign. Below 4, aligned words are read and
// shifted: the first may begin up to three bytes before p (in the same 4 bytes of the same allocation),
// nothing behind the last byte is read.
template <int kAlign, int kWords>
__device__ __forceinline__ void load_words(const uint8_t* p, uint32_t (&w)[kWords]) {
  if constexpr (kAlign >= 16 && kWords % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      const uint4 q = *reinterpret_cast<const uint4*>(p + 4 * i);
      w[i] = q.x;
      w[i + 1] = q.y;
      w[i + 2] = q.z;
      w[i + 3] = q.w;
    }
  } else if constexpr (kAlign >= 8 && kWords % 2 == 0) {
#pragma unroll
    for (int i = 0; i < kWords; i += 2) {
      const uint2 q = *reinterpret_cast<const uint2*>(p + 4 * i);
      w[i] = q.x;
      w[i + 1] = q.y;
    }
  } else if constexpr (kAlign >= 4) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) w[i] = *reinterpret_cast<const uint32_t*>(p + 4 * i);
  } else {
    const auto over =
        static_cast<unsigned>(reinterpret_cast<uintptr_t>(p) & 3);  // bytes past an aligned word
    const uint8_t* aligned = p - over;
    uint32_t low = *reinterpret_cast<const uint32_t*>(aligned);
#pragma unroll
    for (int i = 0; i + 1 < kWords; ++i) {
      const uint32_t high = *reinterpret_cast<const uint32_t*>(aligned + 4 * i + 4);
      w[i] = __funnelshift_r(low, high, 8 * over);
      low = high;
    }
    const uint8_t* tail = aligned + 4 * kWords;  // its first `over` bytes are the last of the last word
    uint32_t high = 0;
    if constexpr (kAlign == 2) {
      if (over != 0) high = *reinterpret_cast<const uint16_t*>(tail);
    } else {
      if (over > 0) high = tail[0];
      if (over > 1) high |= static_cast<uint32_t>(tail[1]) << 8;
      if (over > 2) high |= static_cast<uint32_t>(tail[2]) << 16;
    }
    w[kWords - 1] = __funnelshift_r(low, high, 8 * over);
  }
}

template <int kAlign>
__device__ __forceinline__ uint32_t load_u16(const uint8_t* p) {
  if constexpr (kAlign >= 2) {
    return *reinterpret_cast<const uint16_t*>(p);
  } else {
    return p[0] | static_cast<uint32_t>(p[1]) << 8;
  }
}

__device__ __forceinline__ float half_bits(uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// ---- Codes from words. ----

// Byte e of w, minus offset. 2^23 + byte is put together as bits: a conversion would run at a quarter rate.
__device__ __forceinline__ float byte_code(uint32_t w, int e, float offset) {
  return __uint_as_float(__byte_perm(w, 0x4b000000u, 0x7440u + static_cast<unsigned>(e))) -
         (8388608.0f + offset);
}

__device__ __forceinline__ void byte_codes(uint32_t first, uint32_t second, float offset, float (&q)[8]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    q[e] = byte_code(first, e, offset);
    q[4 + e] = byte_code(second, e, offset);
  }
}

// Nibbles of elements 4 i ... of a 32-element block: low halves of the bytes for i < 4.
__device__ __forceinline__ uint32_t nibbles(const uint32_t (&w)[4], int i) {
  return (w[i & 3] >> (4 * (i >> 2))) & 0x0f0f0f0fu;
}

// Bits 0..3 of `bits` as bit 4 of four bytes.
__device__ __forceinline__ uint32_t fifth_bits(uint32_t bits) {
  return (((bits & 15u) * 0x00204081u) & 0x01010101u) << 4;
}

// A code book of sixteen signed bytes, 128 added, as four words.
constexpr uint32_t book_word(const int (&book)[16], int i) {
  return static_cast<uint32_t>(book[4 * i] + 128) | static_cast<uint32_t>(book[4 * i + 1] + 128) << 8 |
         static_cast<uint32_t>(book[4 * i + 2] + 128) << 16 |
         static_cast<uint32_t>(book[4 * i + 3] + 128) << 24;
}
struct BookT16 {
  static constexpr int kValues[16] = {TT_T16_VALUES};
  static constexpr uint32_t k0 = book_word(kValues, 0);
  static constexpr uint32_t k1 = book_word(kValues, 1);
  static constexpr uint32_t k2 = book_word(kValues, 2);
  static constexpr uint32_t k3 = book_word(kValues, 3);
};
struct BookT4 {
  static constexpr int kValues[16] = {TT_T4_VALUES};
  static constexpr uint32_t k0 = book_word(kValues, 0);
  static constexpr uint32_t k1 = book_word(kValues, 1);
  static constexpr uint32_t k2 = book_word(kValues, 2);
  static constexpr uint32_t k3 = book_word(kValues, 3);
};

// The book's bytes for the four indices in the bytes of n.
template <typename Book>
__device__ __forceinline__ uint32_t look_up(uint32_t n) {
  const uint32_t packed = __byte_perm(n | (n >> 4), 0, 0x4420);  // four selector nibbles
  const uint32_t low = __byte_perm(Book::k0, Book::k1, packed & 0x7777u);
  const uint32_t high = __byte_perm(Book::k2, Book::k3, packed & 0x7777u);
  return __byte_perm(low, high, 0x3210u + ((packed & 0x8888u) >> 1));
}

// ---- The formats. ----

template <Dtype kType, bool kAligned>
struct Group;

// What all groups have: scales, mins where the format has them, and the alignment of loads. word(i) of a
// group has elements 4 i ... 4 i + 3 as bytes, kOffset too large.
template <Dtype kType, bool kAligned, int kScalesIn, bool kHasMinIn, int kOffsetIn>
struct GroupBase {
  static constexpr int kScales = kScalesIn;
  static constexpr bool kHasMin = kHasMinIn;
  static constexpr int kOffset = kOffsetIn;
  static constexpr int kAlign = kAligned ? natural_alignment(kType) : 1;
  static constexpr int kBytes = BlockBytes<kType>::value;
  float scale[kScales];
  float min[kScales];

  __device__ __forceinline__ float value(int j, float q) const {
    const int s = kScales == 1 ? 0 : j >> 1;
    return kHasMin ? fmaf(scale[s], q, min[s]) : scale[s] * q;
  }
};

template <bool kAligned>
struct Group<Dtype::kQ4_0, kAligned> : GroupBase<Dtype::kQ4_0, kAligned, 1, false, 8> {
  uint32_t w[4];
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + g * this->kBytes;
    this->scale[0] = half_bits(load_u16<Group::kAlign>(b));
    load_words<Group::kAlign>(b + 2, w);
  }
  __device__ __forceinline__ uint32_t word(int i) const { return nibbles(w, i); }
};

template <bool kAligned>
struct Group<Dtype::kQ4_1, kAligned> : GroupBase<Dtype::kQ4_1, kAligned, 1, true, 0> {
  uint32_t w[4];
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + g * this->kBytes;
    this->scale[0] = half_bits(load_u16<Group::kAlign>(b));
    this->min[0] = half_bits(load_u16<Group::kAlign>(b + 2));
    load_words<Group::kAlign>(b + 4, w);
  }
  __device__ __forceinline__ uint32_t word(int i) const { return nibbles(w, i); }
};

template <bool kAligned>
struct Group<Dtype::kQ5_0, kAligned> : GroupBase<Dtype::kQ5_0, kAligned, 1, false, 16> {
  uint32_t w[4];
  uint32_t high[1];
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + g * this->kBytes;
    this->scale[0] = half_bits(load_u16<Group::kAlign>(b));
    load_words<Group::kAlign>(b + 2, high);
    load_words<Group::kAlign>(b + 6, w);
  }
  __device__ __forceinline__ uint32_t word(int i) const {
    return nibbles(w, i) | fifth_bits(high[0] >> (4 * i));
  }
};

template <bool kAligned>
struct Group<Dtype::kQ5_1, kAligned> : GroupBase<Dtype::kQ5_1, kAligned, 1, true, 0> {
  uint32_t w[4];
  uint32_t high[1];
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + g * this->kBytes;
    this->scale[0] = half_bits(load_u16<Group::kAlign>(b));
    this->min[0] = half_bits(load_u16<Group::kAlign>(b + 2));
    load_words<Group::kAlign>(b + 4, high);
    load_words<Group::kAlign>(b + 8, w);
  }
  __device__ __forceinline__ uint32_t word(int i) const {
    return nibbles(w, i) | fifth_bits(high[0] >> (4 * i));
  }
};

template <bool kAligned>
struct Group<Dtype::kQ8_0, kAligned> : GroupBase<Dtype::kQ8_0, kAligned, 1, false, 128> {
  uint32_t w[8];
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + g * this->kBytes;
    this->scale[0] = half_bits(load_u16<Group::kAlign>(b));
    load_words<Group::kAlign>(b + 2, w);
  }
  __device__ __forceinline__ uint32_t word(int i) const { return w[i] ^ 0x80808080u; }
};

template <bool kAligned>
struct Group<Dtype::kIQ4_NL, kAligned> : GroupBase<Dtype::kIQ4_NL, kAligned, 1, false, 128> {
  uint32_t w[4];
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + g * this->kBytes;
    this->scale[0] = half_bits(load_u16<Group::kAlign>(b));
    load_words<Group::kAlign>(b + 2, w);
  }
  __device__ __forceinline__ uint32_t word(int i) const { return look_up<BookT16>(nibbles(w, i)); }
};

template <bool kAligned>
struct Group<Dtype::kMXFP4, kAligned> : GroupBase<Dtype::kMXFP4, kAligned, 1, false, 128> {
  uint32_t w[4];
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + g * this->kBytes;
    this->scale[0] = f32_from_e8m0_half(b[0]);
    load_words<Group::kAlign>(b + 1, w);
  }
  __device__ __forceinline__ uint32_t word(int i) const { return look_up<BookT4>(nibbles(w, i)); }
};

template <bool kAligned>
struct Group<Dtype::kQ2_K, kAligned> : GroupBase<Dtype::kQ2_K, kAligned, 2, true, 0> {
  uint32_t w[8];
  int shift;
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + (g >> 3) * this->kBytes;
    const int in = static_cast<int>(g & 7);
    const float d = half_bits(load_u16<Group::kAlign>(b + 80));
    const float dmin = half_bits(load_u16<Group::kAlign>(b + 82));
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const int packed = b[2 * in + s];
      this->scale[s] = d * static_cast<float>(packed & 15);
      this->min[s] = -dmin * static_cast<float>(packed >> 4);
    }
    shift = 2 * (in & 3);
    load_words<Group::kAlign>(b + 16 + 32 * (in >> 2), w);
  }
  __device__ __forceinline__ uint32_t word(int i) const {
    return (w[i] >> shift) & 0x03030303u;
  }
};

template <bool kAligned>
struct Group<Dtype::kQ3_K, kAligned> : GroupBase<Dtype::kQ3_K, kAligned, 2, false, 4> {
  uint32_t w[8];
  uint32_t high[8];
  int in;
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + (g >> 3) * this->kBytes;
    in = static_cast<int>(g & 7);
    const float d = half_bits(load_u16<Group::kAlign>(b + 108));
#pragma unroll
    for (int s = 0; s < 2; ++s) this->scale[s] = d * static_cast<float>(unpack_scale_q3k(b + 96, 2 * in + s));
    load_words<Group::kAlign>(b, high);
    load_words<Group::kAlign>(b + 32 + 32 * (in >> 2), w);
  }
  __device__ __forceinline__ uint32_t word(int i) const {
    return ((w[i] >> (2 * (in & 3))) & 0x03030303u) | (((high[i] >> in) & 0x01010101u) << 2);
  }
};

// Scale and min of group `in` (0..7) of a Q4_K or Q5_K block: as unpack_scale_min, from the header's words
// without a branch (lanes of a warp differ in `in`).
__device__ __forceinline__ void scale_min_k45(const uint32_t (&header)[4], int in, float* scale, float* min) {
  const int shift = 8 * (in & 3);
  const uint32_t a = header[1] >> shift;
  const uint32_t b = header[2] >> shift;
  const uint32_t c = header[3] >> shift;
  const uint32_t late_scale = (c & 15u) | ((a >> 2) & 48u);
  const uint32_t late_min = ((c >> 4) & 15u) | ((b >> 2) & 48u);
  *scale = half_bits(header[0] & 0xffffu) * static_cast<float>(in < 4 ? a & 63u : late_scale);
  *min = -half_bits(header[0] >> 16) * static_cast<float>(in < 4 ? b & 63u : late_min);
}

template <bool kAligned>
struct Group<Dtype::kQ4_K, kAligned> : GroupBase<Dtype::kQ4_K, kAligned, 1, true, 0> {
  uint32_t w[8];
  int shift;
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + (g >> 3) * this->kBytes;
    const int in = static_cast<int>(g & 7);
    uint32_t header[4];
    load_words<Group::kAlign>(b, header);
    scale_min_k45(header, in, this->scale, this->min);
    shift = 4 * (in & 1);
    load_words<Group::kAlign>(b + 16 + 32 * (in >> 1), w);
  }
  __device__ __forceinline__ uint32_t word(int i) const { return (w[i] >> shift) & 0x0f0f0f0fu; }
};

template <bool kAligned>
struct Group<Dtype::kQ5_K, kAligned> : GroupBase<Dtype::kQ5_K, kAligned, 1, true, 0> {
  uint32_t w[8];
  uint32_t high[8];
  int in;
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + (g >> 3) * this->kBytes;
    in = static_cast<int>(g & 7);
    uint32_t header[4];
    load_words<Group::kAlign>(b, header);
    scale_min_k45(header, in, this->scale, this->min);
    load_words<Group::kAlign>(b + 16, high);
    load_words<Group::kAlign>(b + 48 + 32 * (in >> 1), w);
  }
  __device__ __forceinline__ uint32_t word(int i) const {
    return ((w[i] >> (4 * (in & 1))) & 0x0f0f0f0fu) | (((high[i] >> in) & 0x01010101u) << 4);
  }
};

template <bool kAligned>
struct Group<Dtype::kQ6_K, kAligned> : GroupBase<Dtype::kQ6_K, kAligned, 2, false, 32> {
  uint32_t w[8];
  uint32_t high[8];
  int in;
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + (g >> 3) * this->kBytes;
    in = static_cast<int>(g & 7);
    const float d = half_bits(load_u16<Group::kAlign>(b + 208));
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      this->scale[s] = d * static_cast<float>(static_cast<int8_t>(b[192 + 2 * in + s]));
    }
    load_words<Group::kAlign>(b + 64 * (in >> 2) + 32 * (in & 1), w);
    load_words<Group::kAlign>(b + 128 + 32 * (in >> 2), high);
  }
  __device__ __forceinline__ uint32_t word(int i) const {
    return ((w[i] >> (4 * ((in >> 1) & 1))) & 0x0f0f0f0fu) |
           (((high[i] >> (2 * (in & 3))) & 0x03030303u) << 4);
  }
};

template <bool kAligned>
struct Group<Dtype::kIQ4_XS, kAligned> : GroupBase<Dtype::kIQ4_XS, kAligned, 1, false, 128> {
  uint32_t w[4];
  __device__ __forceinline__ void load(const uint8_t* row, int64_t g) {
    const uint8_t* b = row + (g >> 3) * this->kBytes;
    const int in = static_cast<int>(g & 7);
    const uint32_t scales_h = load_u16<Group::kAlign>(b + 2);
    const int scale6 = unpack_scale_iq4xs(static_cast<uint16_t>(scales_h), b + 4, in);
    this->scale[0] = half_bits(load_u16<Group::kAlign>(b)) * static_cast<float>(scale6);
    load_words<Group::kAlign>(b + 8 + 16 * in, w);
  }
  __device__ __forceinline__ uint32_t word(int i) const { return look_up<BookT16>(nibbles(w, i)); }
};

template <typename G>
__device__ __forceinline__ void codes_of(const G& group, int j, float (&q)[8]) {
  byte_codes(group.word(2 * j), group.word(2 * j + 1), static_cast<float>(G::kOffset), q);
}

template <typename G>
__device__ __forceinline__ uint32_t signed_codes(const G& group, int i) {
  const uint32_t bytes = group.word(i);
  if constexpr (G::kOffset == 0) {
    return bytes;
  } else if constexpr (G::kOffset == 128) {
    return bytes ^ 0x80808080u;
  } else {  // bytes below 128: with the sign bit set, no byte borrows from the next
    return ((bytes | 0x80808080u) - 0x01010101u * static_cast<uint32_t>(G::kOffset)) ^ 0x80808080u;
  }
}

// The block formats, for switches that instantiate a kernel per format.
#define TT_CUDA_BLOCK_TYPES(X) \
  X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_NL) X(IQ4_XS) X(MXFP4)

// ---- Dense formats. ----

template <Dtype kType>
struct DenseType;
template <>
struct DenseType<Dtype::kF32> {
  using Element = float;
};
template <>
struct DenseType<Dtype::kF16> {
  using Element = __half;
};
template <>
struct DenseType<Dtype::kBF16> {
  using Element = __nv_bfloat16;
};

__device__ __forceinline__ float dense_value(float v) {
  return v;
}
__device__ __forceinline__ float dense_value(__half v) {
  return __half2float(v);
}
__device__ __forceinline__ float dense_value(__nv_bfloat16 v) {
  return __bfloat162float(v);
}

// From the bits of a two-byte element.
template <typename Element>
__device__ __forceinline__ float dense_bits(uint32_t bits) {
  if constexpr (std::is_same_v<Element, __half>) {
    return half_bits(bits);
  } else {
    return f32_from_bf16(static_cast<Bf16Bits>(bits));
  }
}

// Eight consecutive elements; 16-byte aligned.
template <typename Element>
__device__ __forceinline__ void load_dense8(const Element* p, float (&v)[8]) {
  if constexpr (sizeof(Element) == 4) {
    const float4 a = reinterpret_cast<const float4*>(p)[0];
    const float4 b = reinterpret_cast<const float4*>(p)[1];
    v[0] = a.x;
    v[1] = a.y;
    v[2] = a.z;
    v[3] = a.w;
    v[4] = b.x;
    v[5] = b.y;
    v[6] = b.z;
    v[7] = b.w;
  } else {
    const uint4 q = *reinterpret_cast<const uint4*>(p);
    const uint32_t w[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = dense_bits<Element>(w[i] & 0xffffu);
      v[2 * i + 1] = dense_bits<Element>(w[i] >> 16);
    }
  }
}

}  // namespace trimtok::cuda
