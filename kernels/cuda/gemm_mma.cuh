// matmul of many rows on tensor cores: mma.m16n8k16 with f16 or bf16 inputs and f32 sums.
//
// x is normalised and prepared once per call (gemm_mma.cu): f16 [T, Kp], each row times a power of two that
// puts its largest element below 2^15, so that no activation overflows or vanishes; for bf16 weights two
// terms, x = high + low to 2^-18, no scale. Kp is K rounded up to kPadK, zeros behind K. Weights become f16
// (rounded once: 2^-11 of each; nothing is lost to underflow, because every product of a format's f16 scale
// and integers is a multiple of 2^-24) or bf16 (exact: BF16 and MXFP4, whose range f16 does not have). A
// weight beyond 65504 of another format becomes infinity, and so do the outputs that need it.
//
// A block of four warps owns a tile of out. x arrives by cp.async, three stages deep. Weights arrive the same
// way where they are stored as the tensor core wants them (kDirect); else each thread holds 32 of the next
// K-slice's elements in registers, raw, while the tensor cores work, and then decodes them into the second of
// two buffers. One barrier per K-slice. Per slice of K: BM + BN rows from L2, 2 BM BN FLOPs a column.
#pragma once

#include "kernels/cuda/gemm_tile.cuh"

namespace trimtok::cuda {

// The prepared x.
struct GemmX {
  const void* terms;    // [n_terms][T][padded] f16 or bf16
  const float* scales;  // [T]: what a row's sums are multiplied with
  int64_t padded;       // Kp
};

using LargeTile = TileShape<128, 128, 32>;

// Elements between rows in shared memory: ldmatrix meets no bank twice.
template <typename Tile>
constexpr int kStride = Tile::kK + 8;

enum class Feed { kDirect, kElements, kGroups };  // cp.async; dense rows of any alignment; block formats

// What an input type is called and how it multiplies.
struct F16Input {
  static constexpr int kTerms = 1;
  static __device__ __forceinline__ uint32_t pack(float low, float high) { return pack_f16(low, high); }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    gpu::mma_f16(d, a, b);
  }
};
struct Bf16Input {
  static constexpr int kTerms = 2;
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    const __nv_bfloat162 h = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &h, sizeof(bits));
    return bits;
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    gpu::mma_bf16(d, a, b);
  }
};
template <Dtype kType>
struct InputOf {
  using Type = F16Input;
};
template <>
struct InputOf<Dtype::kBF16> {
  using Type = Bf16Input;
};
template <>
struct InputOf<Dtype::kMXFP4> {
  using Type = Bf16Input;
};

// 32 elements of a row of w on their way from global to shared memory.
template <Dtype kType, Feed kFeed>
struct Raw {  // kGroups
  Group<kType, true> group;
  // Behind the last group the last one again: x is zero there.
  __device__ __forceinline__ void load(const MatmulArgs& a, int64_t n, int64_t k) {
    const int64_t last = a.w.cols / 32 - 1;
    group.load(row_of<uint8_t>(a.w, n), k / 32 < last ? k / 32 : last);
  }
  __device__ __forceinline__ uint4 eight(int j) const {
    using Input = typename InputOf<kType>::Type;
    float q[8];
    codes_of(group, j, q);
#pragma unroll
    for (int e = 0; e < 8; ++e) q[e] = group.value(j, q[e]);
    return make_uint4(Input::pack(q[0], q[1]), Input::pack(q[2], q[3]), Input::pack(q[4], q[5]),
                      Input::pack(q[6], q[7]));
  }
};
template <Dtype kType>
struct Raw<kType, Feed::kElements> {
  uint32_t words[16];
  __device__ __forceinline__ void load(const MatmulArgs& a, int64_t n, int64_t k) {
    const auto* row = row_of<uint16_t>(a.w, n);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const uint32_t low = k + 2 * i < a.w.cols ? row[k + 2 * i] : 0u;
      const uint32_t high = k + 2 * i + 1 < a.w.cols ? row[k + 2 * i + 1] : 0u;
      words[i] = low | high << 16;
    }
  }
  __device__ __forceinline__ uint4 eight(int j) const {
    return make_uint4(words[4 * j], words[4 * j + 1], words[4 * j + 2], words[4 * j + 3]);
  }
};
template <Dtype kType>
struct Raw<kType, Feed::kDirect> {};

// One K-slice of a warp's tile: acc += a . b^T, both in shared memory.
template <typename Input, typename Tile>
__device__ __forceinline__ void multiply_slice(const uint16_t* sa, const uint16_t* sb,
                                               float (&acc)[Tile::kWarpM / 16][Tile::kWarpN / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  // The rows that this lane names to ldmatrix: see its fragment layouts.
  const uint16_t* a = sa + ((warp / 2) * Tile::kWarpM + lane % 16) * kStride<Tile> + lane / 16 * 8;
  const uint16_t* b =
      sb + ((warp % 2) * Tile::kWarpN + lane % 8 + lane / 16 * 8) * kStride<Tile> + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < Tile::kK; k += 16) {
    uint32_t fb[Tile::kWarpN / 8][2];
#pragma unroll
    for (int n = 0; n < Tile::kWarpN / 16; ++n) {
      uint32_t r[4];
      gpu::ldmatrix_x4(r, b + n * 16 * kStride<Tile> + k);
      fb[2 * n][0] = r[0];
      fb[2 * n][1] = r[1];
      fb[2 * n + 1][0] = r[2];
      fb[2 * n + 1][1] = r[3];
    }
#pragma unroll
    for (int term = 0; term < Input::kTerms; ++term) {
#pragma unroll
      for (int m = 0; m < Tile::kWarpM / 16; ++m) {
        uint32_t fa[4];
        gpu::ldmatrix_x4(fa, a + (term * Tile::kM + m * 16) * kStride<Tile> + k);
#pragma unroll
        for (int n = 0; n < Tile::kWarpN / 8; ++n) Input::multiply(acc[m][n], fa, fb[n]);
      }
    }
  }
}

template <typename Tile, typename Input, Feed kFeed>
constexpr size_t gemm_shared() {
  constexpr size_t kB = kFeed == Feed::kDirect ? kStages : 2;
  return sizeof(uint16_t) * kStride<Tile> * (kStages * Input::kTerms * Tile::kM + kB * Tile::kN);
}

// Two blocks a multiprocessor: without that wish ptxas stops at 96 registers for sm_75 and spills Q2_K.
template <Dtype kType, Feed kFeed, typename Tile>
__global__ void __launch_bounds__(kGemmThreads, 2) gemm_mma_kernel(MatmulArgs a, GemmX x) {
  using Input = typename InputOf<kType>::Type;
  constexpr int kStageA = Input::kTerms * Tile::kM * kStride<Tile>;
  constexpr int kStageB = Tile::kN * kStride<Tile>;
  constexpr int kChunks = Tile::kK / 8;  // of 16 bytes in a row of a slice
  GPU_DYN_SHARED(uint16_t, shared);
  uint16_t* sa = shared;
  uint16_t* sb = shared + kStages * kStageA;
  const auto tid = static_cast<int>(threadIdx.x);
  const int64_t m0 = static_cast<int64_t>(blockIdx.x) * Tile::kM;
  const int64_t n0 = static_cast<int64_t>(blockIdx.y) * Tile::kN;
  const auto n_slices = static_cast<int>((a.x.cols + Tile::kK - 1) / Tile::kK);

  const auto copy_slice = [&](int slice) {
    const int stage = slice % kStages;
    const int64_t k0 = static_cast<int64_t>(slice) * Tile::kK;
    for (int i = tid; i < Input::kTerms * Tile::kM * kChunks; i += kGemmThreads) {
      const int row = i / kChunks;  // of all terms
      const int c = i % kChunks * 8;
      const int64_t t = m0 + row % Tile::kM;
      const bool there = t < a.x.rows;
      const auto* from = static_cast<const uint16_t*>(x.terms) +
                         (row / Tile::kM * a.x.rows + (there ? t : 0)) * x.padded + k0 + c;
      gpu::cp_async16(sa + stage * kStageA + row * kStride<Tile> + c, from, there);
    }
    if constexpr (kFeed == Feed::kDirect) {
      for (int i = tid; i < Tile::kN * kChunks; i += kGemmThreads) {
        const int row = i / kChunks;
        const int c = i % kChunks * 8;
        const bool there = n0 + row < a.w.rows && k0 + c < a.w.cols;
        const auto* from = row_of<uint16_t>(a.w, there ? n0 + row : 0) + (there ? k0 + c : 0);
        gpu::cp_async16(sb + stage * kStageB + row * kStride<Tile> + c, from, there);
      }
    }
  };
  // The 32 elements that this thread decodes.
  constexpr int kPerRow = Tile::kK / 32;
  static_assert(Tile::kN * kPerRow == kGemmThreads);
  const int my_row = tid / kPerRow;
  const int my_k = tid % kPerRow * 32;
  const int64_t my_n = n0 + my_row < a.w.rows ? n0 + my_row : a.w.rows - 1;
  [[maybe_unused]] Raw<kType, kFeed> raw;
  [[maybe_unused]] const auto put_raw = [&](int buffer) {
    if constexpr (kFeed != Feed::kDirect) {
      uint16_t* to = sb + buffer * kStageB + my_row * kStride<Tile> + my_k;
#pragma unroll
      for (int j = 0; j < 4; ++j) *reinterpret_cast<uint4*>(to + 8 * j) = raw.eight(j);
    }
  };

  float acc[Tile::kWarpM / 16][Tile::kWarpN / 8][4] = {};
  for (int slice = 0; slice + 1 < kStages; ++slice) {
    if (slice < n_slices) copy_slice(slice);
    gpu::cp_async_commit();
  }
  if constexpr (kFeed != Feed::kDirect) {
    raw.load(a, my_n, my_k);
    put_raw(0);
  }
  for (int slice = 0; slice < n_slices; ++slice) {
    gpu::cp_async_wait<kStages - 2>();
    __syncthreads();  // this slice is there for all, and all are done with the one before
    if (slice + kStages - 1 < n_slices) copy_slice(slice + kStages - 1);
    gpu::cp_async_commit();
    const bool more = slice + 1 < n_slices;
    if constexpr (kFeed != Feed::kDirect) {
      if (more) raw.load(a, my_n, static_cast<int64_t>(slice + 1) * Tile::kK + my_k);
    }
    const int buffer = kFeed == Feed::kDirect ? slice % kStages : slice % 2;
    multiply_slice<Input, Tile>(sa + slice % kStages * kStageA, sb + buffer * kStageB, acc);
    if (more) put_raw((slice + 1) % 2);
  }

  finish_tile<Tile>(a, m0, n0, acc, [&](int64_t t) { return x.scales[t]; });
}

template <Dtype kType, Feed kFeed>
Status run_gemm(const ExecContext& ctx, const MatmulArgs& a, const GemmX& x) {
  using Input = typename InputOf<kType>::Type;
  if (a.out.rows > SmallTile::kM && fills_device<LargeTile>(a)) {
    return launch_tiles<LargeTile>(gemm_mma_kernel<kType, kFeed, LargeTile>,
                                   gemm_shared<LargeTile, Input, kFeed>(), ctx, a, x);
  }
  return launch_tiles<SmallTile>(gemm_mma_kernel<kType, kFeed, SmallTile>,
                                 gemm_shared<SmallTile, Input, kFeed>(), ctx, a, x);
}

// One translation unit each, to keep compile times apart. kUnsupported for a type of another one.
Status gemm_mma_dense(const ExecContext& ctx, const MatmulArgs& a, const GemmX& x);
Status gemm_mma_blocks32(const ExecContext& ctx, const MatmulArgs& a, const GemmX& x);
Status gemm_mma_blocks256(const ExecContext& ctx, const MatmulArgs& a, const GemmX& x);

}  // namespace trimtok::cuda
