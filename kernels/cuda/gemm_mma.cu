// The tensor-core matmul: x is prepared in scratch, then gemm_mma.cuh multiplies.
#include "kernels/cuda/gemm_mma.cuh"

namespace trimtok::cuda {
namespace {

constexpr unsigned kThreads = 256;

// A block owns a row: 4 bytes read (first from DRAM or L2, then once or, with a norm, two or three times from
// L1), 2 written per element.
__global__ void __launch_bounds__(kThreads)
    prepare_f16_kernel(ConstMatrix x, RowNorm norm, __half* out, int64_t padded, float* scales) {
  GPU_SHARED(float, slots, [kThreads / kWarp]);
  const int64_t t = blockIdx.x;
  const float* row = row_of<float>(x, t);
  const RowStats stats = stats_of_row(norm, row, x.cols, slots);
  float largest = 0.0f;
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) {
    largest = fmaxf(largest, fabsf(normalised(norm, stats, row[i], i)));
  }
  largest = block_max(largest, slots);
  // 2^(14 - e) for a largest element in [2^e, 2^(e + 1)); both it and its inverse are normal numbers.
  const int biased = min(max(static_cast<int>(__float_as_uint(largest) >> 23), 15), 254);
  const float up = __uint_as_float(static_cast<unsigned>(268 - biased) << 23);
  if (threadIdx.x == 0) scales[t] = __uint_as_float(static_cast<unsigned>(biased - 14) << 23);
  for (int64_t i = threadIdx.x; i < padded; i += blockDim.x) {
    out[t * padded + i] = __float2half_rn(i < x.cols ? normalised(norm, stats, row[i], i) * up : 0.0f);
  }
}

// As prepare_f16_kernel without its pass for the scale; two terms of 2 bytes written.
__global__ void __launch_bounds__(kThreads)
    prepare_bf16_kernel(ConstMatrix x, RowNorm norm, __nv_bfloat16* out, int64_t padded, float* scales) {
  GPU_SHARED(float, slots, [kThreads / kWarp]);
  const int64_t t = blockIdx.x;
  const float* row = row_of<float>(x, t);
  const RowStats stats = stats_of_row(norm, row, x.cols, slots);
  if (threadIdx.x == 0) scales[t] = 1.0f;
  for (int64_t i = threadIdx.x; i < padded; i += blockDim.x) {
    const float v = i < x.cols ? normalised(norm, stats, row[i], i) : 0.0f;
    const __nv_bfloat16 high = __float2bfloat16_rn(v);
    const float rest = v - __bfloat162float(high);
    out[t * padded + i] = high;
    // Infinity minus infinity is no second term.
    out[(x.rows + t) * padded + i] = __float2bfloat16_rn(fabsf(v) <= 3.3895314e38f ? rest : 0.0f);
  }
}

}  // namespace

Status gemm_mma(const ExecContext& ctx, const MatmulArgs& a) {
  const bool bf16 = a.w.dtype == Dtype::kBF16 || a.w.dtype == Dtype::kMXFP4;
  const int64_t rows = a.x.rows;
  const int64_t padded = gpu::ceil_div(a.x.cols, kPadK) * kPadK;
  const int64_t term_bytes = rows * padded * 2;
  const int64_t bytes = (bf16 ? 2 : 1) * term_bytes + rows * static_cast<int64_t>(sizeof(float));
  void* scratch = get_scratch(ctx, static_cast<size_t>(bytes));
  if (scratch == nullptr) return Status::kOutOfMemory;
  auto* scales = reinterpret_cast<float*>(static_cast<char*>(scratch) + (bf16 ? 2 : 1) * term_bytes);
  const unsigned threads = row_threads(padded, kThreads);
  Status s = bf16 ? launch_rows(prepare_bf16_kernel, rows, 1, threads, 0, ctx, a.x, a.norm,
                                static_cast<__nv_bfloat16*>(scratch), padded, scales)
                  : launch_rows(prepare_f16_kernel, rows, 1, threads, 0, ctx, a.x, a.norm,
                                static_cast<__half*>(scratch), padded, scales);
  if (s != Status::kOk) return s;
  const GemmX x{scratch, scales, padded};
  s = gemm_mma_dense(ctx, a, x);
  if (s == Status::kUnsupported) s = gemm_mma_blocks32(ctx, a, x);
  if (s == Status::kUnsupported) s = gemm_mma_blocks256(ctx, a, x);
  return s;
}

}  // namespace trimtok::cuda
