// Compute::kInt8: x is rounded to two int8 digits, then gemm_int8.cuh multiplies. Few rows, which wait for
// the weights' bytes, and weights at odd addresses take matvec: the rounded x as f32, products in f32.
#include "kernels/cuda/gemm_int8.cuh"

namespace trimtok::cuda {
namespace {

constexpr unsigned kThreads = 256;

// Element `lane` of a block of 32, as an integer q, |q| <= 16256; the block is about scale q.
struct Rounded {
  int32_t q;
  float scale;
};
__device__ __forceinline__ Rounded round_block(float v) {
  constexpr float kLargest = 127.0f * 128.0f;
  const bool finite = __all_sync(kAllLanes, fabsf(v) <= 3.4028234e38f) != 0;
  const float largest = warp_max(fabsf(v));
  if (!finite) return {0, quiet_nan()};
  if (largest < 0x1p-100f) return {0, 0.0f};
  return {__float2int_rn(v * (kLargest / largest)), largest / kLargest};
}

// A block owns a row, a warp a block of 32 at a time: 4 bytes read per element (with a norm once or twice
// more from L1), 2 written.
__global__ void __launch_bounds__(kThreads) prepare_int8_kernel(ConstMatrix x, RowNorm norm, Int8X out) {
  GPU_SHARED(float, slots, [kThreads / kWarp]);
  const int64_t t = blockIdx.x;
  const float* row = row_of<float>(x, t);
  const RowStats stats = stats_of_row(norm, row, x.cols, slots);
  const auto lane = static_cast<int>(threadIdx.x % kWarp);
  for (int64_t block = threadIdx.x / kWarp; block < out.padded / 32; block += blockDim.x / kWarp) {
    const int64_t k = 32 * block + lane;
    const Rounded r = round_block(k < x.cols ? normalised(norm, stats, row[k], k) : 0.0f);
    const int32_t high = __float2int_rn(static_cast<float>(r.q) * (1.0f / 128.0f));
    out.digits[t * out.padded + k] = static_cast<int8_t>(high);
    out.digits[(x.rows + t) * out.padded + k] = static_cast<int8_t>(r.q - 128 * high);
    if (lane == 0) out.scales[block * out.lines + t] = r.scale;
    if (out.sums == nullptr) continue;
    const int width = kWarp / out.n_groups;
    int32_t sum = r.q;
    for (int o = width / 2; o > 0; o /= 2) sum += __shfl_xor_sync(kAllLanes, sum, o);
    if (lane % width == 0) {
      const int64_t group = block * out.n_groups + lane / width;
      out.sums[group * out.lines + t] = r.scale * static_cast<float>(sum);
    }
  }
}

// The rounded x as f32: reads as prepare_int8_kernel, 4 bytes written per element.
__global__ void __launch_bounds__(kThreads) round_int8_kernel(ConstMatrix x, RowNorm norm, float* out) {
  GPU_SHARED(float, slots, [kThreads / kWarp]);
  const int64_t t = blockIdx.x;
  const float* row = row_of<float>(x, t);
  const RowStats stats = stats_of_row(norm, row, x.cols, slots);
  for (int64_t k = threadIdx.x; k < x.cols; k += blockDim.x) {
    const Rounded r = round_block(normalised(norm, stats, row[k], k));
    out[t * x.cols + k] = static_cast<float>(r.q) * r.scale;
  }
}

Status matvec_int8(const ExecContext& ctx, const MatmulArgs& a) {
  const int64_t row_bytes = a.x.cols * static_cast<int64_t>(sizeof(float));
  void* scratch = get_scratch(ctx, static_cast<size_t>(a.x.rows * row_bytes));
  if (scratch == nullptr) return Status::kOutOfMemory;
  const Status s = launch_rows(round_int8_kernel, a.x.rows, 1, row_threads(a.x.cols, kThreads), 0, ctx, a.x,
                               a.norm, static_cast<float*>(scratch));
  if (s != Status::kOk) return s;
  MatmulArgs rounded = a;
  rounded.norm = {};  // it is in there
  rounded.x = {scratch, Dtype::kF32, a.x.rows, a.x.cols, row_bytes};
  return matvec(ctx, rounded);
}

// How many sums of x per block of 32 meet the mins of a format; 0: it has none.
int32_t sums_per_block(Dtype dtype) {
  switch (dtype) {
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return Group<Dtype::k##name, true>::kHasMin ? Group<Dtype::k##name, true>::kScales : 0;
    TT_CUDA_BLOCK_TYPES(TT_CASE)
#undef TT_CASE
    default:
      return 0;
  }
}

}  // namespace

Status gemm_int8(const ExecContext& ctx, const MatmulArgs& a) {
  if (a.x.rows <= kVecRows || !blocks_aligned(a.w)) return matvec_int8(ctx, a);
  Int8X x{};
  x.n_groups = sums_per_block(a.w.dtype);
  x.padded = gpu::ceil_div(a.x.cols, kPadK) * kPadK;
  x.lines = gpu::ceil_div(a.x.rows, 4) * 4;
  const int64_t digits = 2 * a.x.rows * x.padded;
  const int64_t line_floats = x.padded / 32 * x.lines;
  const int64_t bytes = digits + (1 + x.n_groups) * line_floats * static_cast<int64_t>(sizeof(float));
  auto* scratch = static_cast<char*>(get_scratch(ctx, static_cast<size_t>(bytes)));
  if (scratch == nullptr) return Status::kOutOfMemory;
  x.digits = reinterpret_cast<int8_t*>(scratch);
  x.scales = reinterpret_cast<float*>(scratch + digits);
  if (x.n_groups > 0) x.sums = x.scales + line_floats;
  Status s =
      launch_rows(prepare_int8_kernel, a.x.rows, 1, row_threads(x.padded, kThreads), 0, ctx, a.x, a.norm, x);
  if (s != Status::kOk) return s;
  s = gemm_int8_blocks32(ctx, a, x);
  return s == Status::kUnsupported ? gemm_int8_blocks256(ctx, a, x) : s;
}

}  // namespace trimtok::cuda
