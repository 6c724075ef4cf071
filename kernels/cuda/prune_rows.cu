// unit_rows and sum_rows: what the pruner does to rows before any similarity is taken. Bound by memory.
#include "kernels/cuda/device.cuh"

namespace trimtok::cuda {
namespace {

constexpr unsigned kUnitThreads = 512;
constexpr int kUnitWarps = kUnitThreads / kWarp;

template <typename T>
__device__ __forceinline__ float element(const T* x, int64_t i) {
  if constexpr (sizeof(T) == 2) {
    return __half2float(x[i]);
  } else {
    return x[i];
  }
}

// A block owns a row and passes over it three times; 6 or 8 bytes and 5 FLOPs an element. The squares are
// taken of x / 2^e, e the exponent of the largest |x|, so that they neither overflow nor vanish.
template <typename T>
__global__ void __launch_bounds__(kUnitThreads) unit_rows_kernel(UnitRowsArgs a) {
  GPU_SHARED(float, slots, [kUnitWarps]);
  const int64_t t = blockIdx.x;
  const T* x = row_of<T>(a.x, t);
  float* out = row_of<float>(a.out, t);
  float largest = 0.0f;
  for (int64_t i = threadIdx.x; i < a.x.cols; i += blockDim.x) largest = fmaxf(largest, fabsf(element(x, i)));
  largest = block_max(largest, slots);
  // The biased exponent, kept where both 2^e and 2^-e are normal. Not finite: any e will do.
  const int biased = min(max(static_cast<int>(__float_as_uint(largest) >> 23), 1), 253);
  const float up = __uint_as_float(static_cast<unsigned>(254 - biased) << 23);
  const float down = __uint_as_float(static_cast<unsigned>(biased) << 23);
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < a.x.cols; i += blockDim.x) {
    const float v = element(x, i) * up;
    squares = fmaf(v, v, squares);
  }
  const float root = sqrtf(block_sum(squares, slots));
  if (threadIdx.x == 0 && a.norms != nullptr) a.norms[t] = root * down;
  const float divisor = root == 0.0f ? 1.0f : root;
  for (int64_t i = threadIdx.x; i < a.x.cols; i += blockDim.x) out[i] = element(x, i) * up / divisor;
}

constexpr int kSumCols = 32;
constexpr int kSumLanes = 16;  // rows that a block reads side by side

// A block owns 32 columns of sum blockIdx.x: 4 bytes and 2 FLOPs an element of x. Thread row y sums every
// kSumLanes-th row, then the partial sums are added in order.
__global__ void __launch_bounds__(kSumCols* kSumLanes) sum_rows_kernel(SumRowsArgs a) {
  GPU_SHARED(float, partial, [kSumLanes][kSumCols]);
  const int64_t b = blockIdx.x;
  const int64_t begin = a.begin[b];
  const int64_t end = a.begin[b + 1];
  const bool sane = begin >= 0 && begin <= end && end <= a.x.rows;
  for (int64_t col0 = static_cast<int64_t>(blockIdx.y) * kSumCols; col0 < a.out.cols;
       col0 += static_cast<int64_t>(gridDim.y) * kSumCols) {
    const int64_t i = col0 + threadIdx.x;
    float sum = 0.0f;
    if (sane && i < a.out.cols) {
      for (int64_t t = begin + threadIdx.y; t < end; t += kSumLanes) {
        sum = fmaf(a.weight == nullptr ? 1.0f : a.weight[t], row_of<float>(a.x, t)[i], sum);
      }
    }
    partial[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && i < a.out.cols) {
      for (int y = 1; y < kSumLanes; ++y) sum += partial[y][threadIdx.x];
      row_of<float>(a.out, b)[i] = sane ? sum : quiet_nan();
    }
    __syncthreads();
  }
}

}  // namespace

Status unit_rows(const ExecContext& ctx, const UnitRowsArgs& a) {
  if (const Status s = check_unit_rows_shapes(a); s != Status::kOk) return s;
  return launch_rows(a.x.dtype == Dtype::kF16 ? unit_rows_kernel<__half> : unit_rows_kernel<float>,
                     a.out.rows, 1, row_threads(a.out.cols, kUnitThreads), 0, ctx, a);
}

Status sum_rows(const ExecContext& ctx, const SumRowsArgs& a) {
  if (const Status s = check_sum_rows_shapes(a); s != Status::kOk) return s;
  if (a.out.rows == 0 || a.out.cols == 0) return Status::kOk;
  if (a.out.rows > 0x7fffffff) return gpu::fail(Status::kUnsupported, "sum_rows: more than 2^31 - 1 sums");
  const int64_t chunks = gpu::ceil_div(a.out.cols, kSumCols);
  const dim3 grid(static_cast<unsigned>(a.out.rows), static_cast<unsigned>(chunks < 65535 ? chunks : 65535));
  return gpu::launch(sum_rows_kernel, grid, dim3(kSumCols, kSumLanes), 0, ctx.stream, a);
}

}  // namespace trimtok::cuda
