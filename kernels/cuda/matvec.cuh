// What both mat-vec kernels share: the cut of the work, x in shared memory, the sum over lanes and warps.
//
// A block of eight warps owns kVecOutputs * 8 / split outputs and up to kCols rows of x; a team of `split`
// warps owns kVecOutputs neighbouring outputs and reads their rows of w exactly once from DRAM. x lies in
// shared memory in pieces of kPiece / kCols elements, padded so that 16-byte reads of lanes 8 or 32 elements
// apart meet no bank twice. Bound by memory: w's bytes, plus 4 K bytes of x from L2 per block, and as many of
// the norm's weight; 2 FLOPs an element of w and row of x, and some three integer or f32 instructions to
// unpack it.
//
// Every block takes the norm of its rows by itself. kRms: x times weight is staged, squares are added up on
// the way, and the finished sums are scaled; nothing waits for the norm. kLayer needs the mean before
// anything can be staged, so the rows are read twice more, from L2 or L1.
#pragma once

#include "kernels/cuda/matmul.cuh"

namespace trimtok::cuda {

constexpr int kVecThreads = 256;
constexpr int kVecWarps = kVecThreads / kWarp;
constexpr int kVecOutputs = 2;       // rows of w that a team reads side by side
constexpr int64_t kPiece = 8192;     // floats of x in shared memory, before padding
constexpr int64_t kVecBlocks = 256;  // blocks wanted; below, rows of w are split over warps

// Element i of a piece of x in shared memory.
__device__ __forceinline__ int64_t padded(int64_t i) {
  return i + 4 * (i / 32);
}

struct VecShape {
  int32_t split;  // warps a team
  int64_t piece;  // elements of K in shared memory at once, a multiple of 32
};

template <int kCols>
VecShape vec_shape(const MatmulArgs& a) {
  VecShape shape;
  const int64_t passes = gpu::ceil_div(a.x.rows, kCols);
  shape.split = 1;
  // A warp that is added must still find 32 elements a lane.
  while (shape.split < kVecWarps && a.x.cols >= 2048 * shape.split &&
         gpu::ceil_div(a.w.rows * shape.split, kVecWarps * kVecOutputs) * passes < kVecBlocks) {
    shape.split *= 2;
  }
  const int64_t whole = gpu::ceil_div(a.x.cols, 32) * 32;
  shape.piece = whole < kPiece / kCols ? whole : kPiece / kCols;
  return shape;
}

template <int kCols, typename... Params>
Status launch_vec(void (*kernel)(Params...), const ExecContext& ctx, const MatmulArgs& a) {
  const VecShape shape = vec_shape<kCols>(a);
  const int64_t outputs = kVecOutputs * (kVecWarps / shape.split);
  const int64_t blocks = gpu::ceil_div(a.w.rows, outputs);
  const int64_t passes = gpu::ceil_div(a.x.rows, kCols);
  if (blocks > 0x7fffffff || passes > 65535) {
    return gpu::fail(Status::kUnsupported, "matmul: more outputs or rows than one launch holds");
  }
  const auto shared = static_cast<size_t>((shape.piece + shape.piece / 8) * kCols) * sizeof(float);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(passes));
  return gpu::launch(kernel, grid, dim3(kVecThreads), shared, ctx.stream, a, shape);
}

// Where a warp stands.
struct VecPlace {
  int64_t output;  // first of its team
  int64_t col;     // first row of x of its block
  int32_t part;    // of its team's warps
  int32_t lane;
};

__device__ __forceinline__ VecPlace vec_place(const VecShape& shape, int cols) {
  const auto warp = static_cast<int32_t>(threadIdx.x) / kWarp;
  VecPlace place;
  place.output =
      (static_cast<int64_t>(blockIdx.x) * (kVecWarps / shape.split) + warp / shape.split) * kVecOutputs;
  place.col = static_cast<int64_t>(blockIdx.y) * cols;
  place.part = warp % shape.split;
  place.lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  return place;
}

// Row of w for output i of a team; behind the last one the last one again, whose sum is then thrown away.
__device__ __forceinline__ const uint8_t* vec_row(const MatmulArgs& a, const VecPlace& place, int i) {
  const int64_t n = place.output + i;
  return row_of<uint8_t>(a.w, n < a.w.rows ? n : a.w.rows - 1);
}

// The norm of a block's rows, in shared memory.
template <int kCols>
struct VecNorm {
  float squares[kVecWarps][kCols];  // kRms: of what each warp has staged so far
  RowStats stats[kCols];            // how rows are staged
};

template <int kCols>
__device__ __forceinline__ void start_norm(const MatmulArgs& a, int64_t col, VecNorm<kCols>& norm) {
  const auto tid = static_cast<int>(threadIdx.x);
  if (a.norm.kind == RowNorm::Kind::kRms && tid < kVecWarps * kCols)
    norm.squares[tid / kCols][tid % kCols] = 0.0f;
  if (tid < kCols) norm.stats[tid] = kAsItIs;
  if (a.norm.kind != RowNorm::Kind::kLayer) return;
  GPU_SHARED(float, slots, [kVecWarps]);
#pragma unroll 1
  for (int c = 0; c < kCols && col + c < a.x.rows; ++c) {
    const RowStats stats = stats_of_row(a.norm, row_of<float>(a.x, col + c), a.x.cols, slots);
    if (tid == c) norm.stats[c] = stats;
  }
}

// xs[c][padded(i)] = x[col + c][k0 + i], normalised but for the scale of kRms, for i < count; zeros for
// columns beyond the last and up to a multiple of 32. Waits for readers before and for writers after.
template <int kCols>
__device__ __forceinline__ void stage_x(const MatmulArgs& a, const VecShape& shape, int64_t col, int64_t k0,
                                        int64_t count, VecNorm<kCols>& norm, float* xs) {
  __syncthreads();
  const auto n = static_cast<int>(count);
  const int rounded = (n + 31) / 32 * 32;
  const auto tid = static_cast<int>(threadIdx.x);
#pragma unroll 1  // else what belongs to each row stays in registers while sums are added up, and they spill
  for (int c = 0; c < kCols; ++c) {
    const bool there = col + c < a.x.rows;
    const float* x = row_of<float>(a.x, there ? col + c : 0) + k0;
    float* to = xs + c * padded(shape.piece);
    const RowStats stats = norm.stats[c];
    float squares = 0.0f;
#pragma unroll 4
    for (int i = tid; i < rounded; i += kVecThreads) {
      const float v = there && i < n ? x[i] : 0.0f;
      squares = fmaf(v, v, squares);
      to[padded(i)] = there && i < n ? normalised(a.norm, stats, v, k0 + i) : 0.0f;
    }
    if (a.norm.kind == RowNorm::Kind::kRms) {
      squares = warp_sum(squares);
      if (tid % kWarp == 0) norm.squares[tid / kWarp][c] += squares;
    }
  }
  __syncthreads();
}

// Adds up over lanes and over the warps of a team, and writes the outputs.
template <int kCols>
__device__ __forceinline__ void finish_vec(const MatmulArgs& a, const VecShape& shape, const VecPlace& place,
                                           const VecNorm<kCols>& norm, float (&acc)[kVecOutputs][kCols]) {
  GPU_SHARED(float, partial, [kVecWarps][kVecOutputs][kCols]);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (int i = 0; i < kVecOutputs; ++i) {
#pragma unroll
    for (int c = 0; c < kCols; ++c) {
      const float sum = warp_sum(acc[i][c]);
      if (place.lane == 0) partial[warp][i][c] = sum;
    }
  }
  __syncthreads();
  const int teams = kVecWarps / shape.split;
  const auto tid = static_cast<int>(threadIdx.x);
  if (tid >= teams * kVecOutputs * kCols) return;
  const int c = tid / (teams * kVecOutputs);
  const int i = tid % (teams * kVecOutputs);
  const int64_t n = static_cast<int64_t>(blockIdx.x) * teams * kVecOutputs + i;
  const int64_t t = place.col + c;
  if (n >= a.w.rows || t >= a.x.rows) return;
  float sum = 0.0f;
  for (int part = 0; part < shape.split; ++part) {
    sum += partial[i / kVecOutputs * shape.split + part][i % kVecOutputs][c];
  }
  if (a.norm.kind == RowNorm::Kind::kRms) {
    float squares = 0.0f;
    for (int w = 0; w < kVecWarps; ++w) squares += norm.squares[w][c];
    sum *= scale_of(a.norm, squares, a.x.cols);
  }
  finish_output(a, t, n, sum);
}

}  // namespace trimtok::cuda
