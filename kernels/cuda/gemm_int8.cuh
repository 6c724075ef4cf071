// matmul with block formats on int8 tensor cores (mma.m16n8k32): Compute::kInt8 of args.h.
//
// x is normalised and prepared once per call (gemm_int8.cu): two planes of int8 digits, x = scale (128 a +
// b), a scale per block of 32, and for formats with mins the sum of x per group of weights. Weights become
// their codes as int8, which is exact, with their scales beside them. A group's sum 128 (a . q) + b . q is
// exact in 32 bits; it is scaled and added up in f32. So the result is that of an f32 evaluation of the
// rounded x: nothing here is rounded to f16, and no weight overflows.
//
// Tiles and traffic are those of gemm_mma.cuh: x by cp.async, three stages deep, the next slice's weights in
// registers while the tensor cores work, one barrier per slice. Per 32 columns of K: 2 BM + BN rows of 32
// bytes in shared memory, two products on int8 units, which run at twice the rate of f16 ones (at four times
// on GeForce), and per output and group one conversion and one multiply-add.
#pragma once

#include "kernels/cuda/gemm_tile.cuh"

namespace trimtok::cuda {

using WideTile = TileShape<64, 128, 32>;  // 128 x 128 would spill: two digits, codes, scales beside the sums

// The prepared x. What is kept per block or group lies row by row, so that a tile's are neighbours.
struct Int8X {
  int8_t* digits;    // [2][T][padded]: a, then b; zeros behind K
  float* scales;     // [padded / 32][lines]
  float* sums;       // [padded / 32 * kScales][lines]: scale times the sum of 128 a + b; null without mins
  int64_t padded;    // K rounded up to kPadK
  int64_t lines;     // T rounded up to 4
  int32_t n_groups;  // sums per block of 32; 0: the format has no mins
};

// Byte offsets in shared memory: kStages times x, then two buffers of weights.
template <typename G, typename Tile>
struct Int8Layout {
  static constexpr int kStride = Tile::kK + 16;  // bytes between rows: ldmatrix meets no bank twice
  static constexpr int kBlocks = Tile::kK / 32;
  static constexpr int kGroups = kBlocks * G::kScales;
  static constexpr int kXLines = kBlocks + (G::kHasMin ? kGroups : 0);  // of kM floats: scales, sums
  static constexpr int kXScales = 2 * Tile::kM * kStride;
  static constexpr int kXStage = kXScales + 4 * Tile::kM * kXLines;
  static constexpr int kWScales = Tile::kN * kStride;  // kGroups lines of kN floats, then as many mins
  static constexpr int kWStage = kWScales + 4 * Tile::kN * kGroups * (G::kHasMin ? 2 : 1);
  static constexpr size_t kBytes = size_t{kStages} * kXStage + 2 * size_t{kWStage};
};

// Fragments of one group, 32 / kScales deep. Four bytes are to ldmatrix two of its elements, so the layouts
// are those of gemm_mma.cuh for 32, and half of them for 16: there one ldmatrix brings both digits of x.

// sx: the first of 16 rows of the group's columns; low digits are `plane` bytes behind the high ones.
template <int kScales>
__device__ __forceinline__ void load_x(const unsigned char* sx, int stride, int plane,
                                       uint32_t (&x)[2][4 / kScales]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if constexpr (kScales == 1) {
    const unsigned char* at = sx + lane % 16 * stride + lane / 16 * 16;
    gpu::ldmatrix_x4(x[0], at);
    gpu::ldmatrix_x4(x[1], at + plane);
  } else {
    uint32_t r[4];
    gpu::ldmatrix_x4(r, sx + lane % 16 * stride + lane / 16 * plane);
    x[0][0] = r[0];
    x[0][1] = r[1];
    x[1][0] = r[2];
    x[1][1] = r[3];
  }
}

// sw: the first of kCols rows of weights, at the group's columns.
template <int kScales, int kCols>
__device__ __forceinline__ void load_w(const unsigned char* sw, int stride,
                                       uint32_t (&w)[kCols / 8][2 / kScales]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  constexpr int kAtOnce = 16 * kScales;  // rows of one ldmatrix
  const int row = kScales == 1 ? lane % 8 + lane / 16 * 8 : lane;
  const unsigned char* at = sw + row * stride + (kScales == 1 ? lane / 8 % 2 * 16 : 0);
#pragma unroll
  for (int n = 0; n < kCols / kAtOnce; ++n) {
    uint32_t r[4];
    gpu::ldmatrix_x4(r, at + n * kAtOnce * stride);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[n * kAtOnce / 8 + i * kScales / 2][kScales == 1 ? i % 2 : 0] = r[i];
    }
  }
}

// d = 128 (high . w) + low . w over one group.
template <int kScales>
__device__ __forceinline__ void multiply_digits(int32_t (&d)[4], const uint32_t (&x)[2][4 / kScales],
                                                const uint32_t (&w)[2 / kScales]) {
#pragma unroll
  for (int digit = 0; digit < 2; ++digit) {
#pragma unroll
    for (int e = 0; e < 4; ++e) d[e] = digit == 0 ? 0 : d[e] * 128;
    if constexpr (kScales == 1) {
      gpu::mma_s8(d, x[digit], w);
    } else {
      gpu::mma_s8_k16(d, x[digit][0], x[digit][1], w[0]);
    }
  }
}

// One K-slice of a warp's tile.
template <typename G, typename Tile>
__device__ __forceinline__ void multiply_int8(const unsigned char* sx, const unsigned char* sw,
                                              float (&acc)[Tile::kWarpM / 16][Tile::kWarpN / 8][4]) {
  using Layout = Int8Layout<G, Tile>;
  constexpr int kTilesN = Tile::kWarpN / 8;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int row0 = warp / 2 * Tile::kWarpM;
  const int col0 = warp % 2 * Tile::kWarpN;
  const float* x_scales = reinterpret_cast<const float*>(sx + Layout::kXScales) + row0 + lane / 4;
  const float* x_sums = x_scales + Layout::kBlocks * Tile::kM;
  const float* w_scales = reinterpret_cast<const float*>(sw + Layout::kWScales) + col0 + lane % 4 * 2;
#pragma unroll
  for (int group = 0; group < Layout::kGroups; ++group) {
    const int column = group * 32 / G::kScales;
    uint32_t w[kTilesN][2 / G::kScales];
    load_w<G::kScales, Tile::kWarpN>(sw + col0 * Layout::kStride + column, Layout::kStride, w);
    float2 scale[kTilesN];
    [[maybe_unused]] float2 min[kTilesN];
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) {
      const float* at = w_scales + group * Tile::kN + n * 8;
      scale[n] = *reinterpret_cast<const float2*>(at);
      if constexpr (G::kHasMin) min[n] = *reinterpret_cast<const float2*>(at + Layout::kGroups * Tile::kN);
    }
#pragma unroll
    for (int m = 0; m < Tile::kWarpM / 16; ++m) {
      uint32_t x[2][4 / G::kScales];
      load_x<G::kScales>(sx + (row0 + m * 16) * Layout::kStride + column, Layout::kStride,
                         Tile::kM * Layout::kStride, x);
      const float* x_scale = x_scales + group / G::kScales * Tile::kM + m * 16;
      [[maybe_unused]] const float* x_sum = x_sums + group * Tile::kM + m * 16;
#pragma unroll
      for (int n = 0; n < kTilesN; ++n) {
        int32_t d[4];
        multiply_digits<G::kScales>(d, x, w[n]);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float both = x_scale[e / 2 * 8] * (e % 2 == 0 ? scale[n].x : scale[n].y);
          acc[m][n][e] = fmaf(static_cast<float>(d[e]), both, acc[m][n][e]);
          if constexpr (G::kHasMin) {
            acc[m][n][e] = fmaf(e % 2 == 0 ? min[n].x : min[n].y, x_sum[e / 2 * 8], acc[m][n][e]);
          }
        }
      }
    }
  }
}

template <Dtype kType, typename Tile>
__global__ void __launch_bounds__(kGemmThreads, 2) gemm_int8_kernel(MatmulArgs a, Int8X x) {
  using G = Group<kType, true>;
  using Layout = Int8Layout<G, Tile>;
  GPU_DYN_SHARED(unsigned char, sx);
  unsigned char* sw = sx + kStages * Layout::kXStage;
  const auto tid = static_cast<int>(threadIdx.x);
  const int64_t m0 = static_cast<int64_t>(blockIdx.x) * Tile::kM;
  const int64_t n0 = static_cast<int64_t>(blockIdx.y) * Tile::kN;
  const auto n_slices = static_cast<int>((a.x.cols + Tile::kK - 1) / Tile::kK);

  const auto copy_slice = [&](int slice) {
    unsigned char* to = sx + slice % kStages * Layout::kXStage;
    const int64_t k0 = static_cast<int64_t>(slice) * Tile::kK;
    constexpr int kChunks = Tile::kK / 16;
    for (int i = tid; i < 2 * Tile::kM * kChunks; i += kGemmThreads) {
      const int row = i / kChunks;  // of both planes
      const int c = i % kChunks * 16;
      const int64_t t = m0 + row % Tile::kM;
      const bool there = t < a.x.rows;
      const int8_t* from = x.digits + (row / Tile::kM * a.x.rows + (there ? t : 0)) * x.padded + k0 + c;
      gpu::cp_async16(to + row * Layout::kStride + c, from, there);
    }
    for (int i = tid; i < Layout::kXLines * Tile::kM / 4; i += kGemmThreads) {
      const int line = i / (Tile::kM / 4);
      const int64_t t = m0 + i % (Tile::kM / 4) * 4;
      const bool there = t < x.lines;
      const float* from = line < Layout::kBlocks
                              ? x.scales + (k0 / 32 + line) * x.lines
                              : x.sums + (k0 / 32 * G::kScales + line - Layout::kBlocks) * x.lines;
      gpu::cp_async16(to + Layout::kXScales + 16 * i, from + (there ? t : 0), there);
    }
  };
  // The group of 32 weights that this thread unpacks.
  static_assert(Tile::kN * Layout::kBlocks == kGemmThreads);
  const int my_row = tid / Layout::kBlocks;
  const int my_block = tid % Layout::kBlocks;
  const int64_t my_n = n0 + my_row < a.w.rows ? n0 + my_row : a.w.rows - 1;
  const int64_t last_group = a.w.cols / 32 - 1;
  G raw;
  const auto load_raw = [&](int slice) {  // behind the last group the last one again: x is zero there
    const int64_t group = static_cast<int64_t>(slice) * Layout::kBlocks + my_block;
    raw.load(row_of<uint8_t>(a.w, my_n), group < last_group ? group : last_group);
  };
  const auto put_raw = [&](int buffer) {
    unsigned char* to = sw + buffer * Layout::kWStage;
    auto* codes = reinterpret_cast<uint4*>(to + my_row * Layout::kStride + 32 * my_block);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      codes[i] = make_uint4(signed_codes(raw, 4 * i), signed_codes(raw, 4 * i + 1),
                            signed_codes(raw, 4 * i + 2), signed_codes(raw, 4 * i + 3));
    }
    float* scales = reinterpret_cast<float*>(to + Layout::kWScales) + my_row;
#pragma unroll
    for (int s = 0; s < G::kScales; ++s) {
      const int group = my_block * G::kScales + s;
      scales[group * Tile::kN] = raw.scale[s];
      if constexpr (G::kHasMin) scales[(Layout::kGroups + group) * Tile::kN] = raw.min[s];
    }
  };

  float acc[Tile::kWarpM / 16][Tile::kWarpN / 8][4] = {};
  for (int slice = 0; slice + 1 < kStages; ++slice) {
    if (slice < n_slices) copy_slice(slice);
    gpu::cp_async_commit();
  }
  load_raw(0);
  put_raw(0);
  for (int slice = 0; slice < n_slices; ++slice) {
    gpu::cp_async_wait<kStages - 2>();
    __syncthreads();  // this slice is there for all, and all are done with the one before
    if (slice + kStages - 1 < n_slices) copy_slice(slice + kStages - 1);
    gpu::cp_async_commit();
    const bool more = slice + 1 < n_slices;
    if (more) load_raw(slice + 1);
    multiply_int8<G, Tile>(sx + slice % kStages * Layout::kXStage, sw + slice % 2 * Layout::kWStage, acc);
    if (more) put_raw((slice + 1) % 2);
  }
  finish_tile<Tile>(a, m0, n0, acc, [](int64_t) { return 1.0f; });
}

template <Dtype kType>
Status run_gemm_int8(const ExecContext& ctx, const MatmulArgs& a, const Int8X& x) {
  using G = Group<kType, true>;
  constexpr bool kWide = G::kScales == 1;  // two scales a block would spill
  if constexpr (kWide) {
    if (fills_device<WideTile>(a)) {
      return launch_tiles<WideTile>(gemm_int8_kernel<kType, WideTile>, Int8Layout<G, WideTile>::kBytes, ctx,
                                    a, x);
    }
  }
  return launch_tiles<SmallTile>(gemm_int8_kernel<kType, SmallTile>, Int8Layout<G, SmallTile>::kBytes, ctx, a,
                                 x);
}

// Two translation units, to keep compile times apart. kUnsupported for a type of the other one.
Status gemm_int8_blocks32(const ExecContext& ctx, const MatmulArgs& a, const Int8X& x);
Status gemm_int8_blocks256(const ExecContext& ctx, const MatmulArgs& a, const Int8X& x);

}  // namespace trimtok::cuda
