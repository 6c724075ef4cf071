// Rows from and to storage: gather_rows (any weight dtype to f32) and convert_rows (f32 to the dtypes of
// activations and the key/value cache, keys rotated on the way). Bound by memory, exact but for rotations.
#include "kernels/cuda/dequant.cuh"
#include "kernels/cuda/rotate.cuh"

namespace trimtok::cuda {
namespace {

constexpr unsigned kThreads = 256;

// ---- gather_rows ----

// Units of work of row blockIdx.x: first, and from one to the next.
__device__ __forceinline__ int64_t first_unit() {
  return static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t unit_step() {
  return static_cast<int64_t>(gridDim.y) * blockDim.x;
}

// Whether row t's id names a row of the table; if not, this block's part of the row becomes NaN.
__device__ __forceinline__ bool id_in_table(const GatherRowsArgs& a, int64_t t) {
  if (a.ids[t] >= 0 && a.ids[t] < a.table.rows) return true;
  for (int64_t i = first_unit(); i < a.out.cols; i += unit_step()) row_of<float>(a.out, t)[i] = quiet_nan();
  return false;
}

// A block owns row blockIdx.x of out, or a piece of it; a thread 32 elements at a time. Reads the stored row
// once, writes 4 bytes an element.
template <Dtype kType>
__global__ void __launch_bounds__(kThreads) gather_blocks_kernel(GatherRowsArgs a) {
  const int64_t t = blockIdx.x;
  if (!id_in_table(a, t)) return;
  const uint8_t* row = row_of<uint8_t>(a.table, a.ids[t]);
  float* out = row_of<float>(a.out, t);
  for (int64_t g = first_unit(); g < a.out.cols / 32; g += unit_step()) {
    Group<kType, false> group;
    group.load(row, g);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float q[8];
      codes_of(group, j, q);
#pragma unroll
      for (int e = 0; e < 8; ++e) out[32 * g + 8 * j + e] = group.value(j, q[e]) * a.scale;
    }
  }
}

// As gather_blocks_kernel, a thread one element at a time.
template <Dtype kType>
__global__ void __launch_bounds__(kThreads) gather_dense_kernel(GatherRowsArgs a) {
  const int64_t t = blockIdx.x;
  if (!id_in_table(a, t)) return;
  const auto* row = row_of<typename DenseType<kType>::Element>(a.table, a.ids[t]);
  float* out = row_of<float>(a.out, t);
  for (int64_t i = first_unit(); i < a.out.cols; i += unit_step()) out[i] = dense_value(row[i]) * a.scale;
}

// ---- convert_rows ----

__device__ __forceinline__ void store_as(float* p, float v) {
  *p = v;
}
__device__ __forceinline__ void store_as(__half* p, float v) {
  *p = __float2half_rn(v);
}
__device__ __forceinline__ void store_as(__nv_bfloat16* p, float v) {
  *p = __float2bfloat16_rn(v);
}

// Where row t goes; below 0: nowhere, its place is outside.
__device__ __forceinline__ int64_t place_of(const ConvertRowsArgs& a, int64_t t) {
  if (a.at == nullptr) return t;
  const int64_t place = a.at[t];
  return place < a.out.rows ? place : -1;
}

// Element i of row t, rotated where that is asked for.
__device__ __forceinline__ float element_of(const ConvertRowsArgs& a, int64_t t, const float* x, int64_t i) {
  if (rotated_dims(a.rotation) == 0) return x[i];
  const auto dim = static_cast<uint32_t>(a.head_dim);
  const auto d = static_cast<int32_t>(static_cast<uint32_t>(i) % dim);
  return rotated_element(a.rotation, t, x + (i - d), d);
}

// A thread owns one element at a time: 4 bytes read, 2 or 4 written; of a rotation's tables every head but
// the first finds its row in L1.
template <Dtype kType>
__global__ void __launch_bounds__(kThreads) convert_dense_kernel(ConvertRowsArgs a) {
  const int64_t t = blockIdx.x;
  const int64_t place = place_of(a, t);
  if (place < 0) return;
  const float* x = row_of<float>(a.x, t);
  auto* out = row_of<typename DenseType<kType>::Element>(a.out, place);
  for (int64_t i = first_unit(); i < a.x.cols; i += unit_step()) store_as(out + i, element_of(a, t, x, i));
}

// A warp owns one block of 32 at a time, a lane one element: 4 bytes read, 34 / 32 written. The operations
// and their rounding are those of the contract in args.h.
__global__ void __launch_bounds__(kThreads) convert_q8_0_kernel(ConvertRowsArgs a) {
  const int64_t t = blockIdx.x;
  const int64_t place = place_of(a, t);
  if (place < 0) return;
  const float* x = row_of<float>(a.x, t);
  auto* out = row_of<uint8_t>(a.out, place);
  const unsigned lane = threadIdx.x % kWarp;
  const int64_t warps = blockDim.x / kWarp;
  for (int64_t b = static_cast<int64_t>(blockIdx.y) * warps + threadIdx.x / kWarp; b < a.x.cols / 32;
       b += static_cast<int64_t>(gridDim.y) * warps) {
    const float v = element_of(a, t, x, 32 * b + lane);
    const bool finite = __all_sync(kAllLanes, fabsf(v) <= 3.4028235e38f) != 0;
    const float s = warp_max(fabsf(v)) / 127.0f;
    unsigned short d = __half_as_ushort(__float2half_rn(s));
    const bool sane = finite && (d & 0x7c00u) != 0x7c00u;
    if (!sane) d = 0x7e00;
    const float inverse = d == 0 ? 0.0f : 1.0f / s;
    const int q = sane ? __float2int_rn(v * inverse) : 1;
    uint8_t* block = out + b * BlockBytes<Dtype::kQ8_0>::value;
    block[2 + lane] = static_cast<uint8_t>(q);
    if (lane < 2) block[lane] = static_cast<uint8_t>(d >> (8 * lane));
  }
}

using GatherKernel = void (*)(GatherRowsArgs);

GatherKernel gather_kernel(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return gather_dense_kernel<Dtype::kF32>;
    case Dtype::kF16:
      return gather_dense_kernel<Dtype::kF16>;
    case Dtype::kBF16:
      return gather_dense_kernel<Dtype::kBF16>;
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return gather_blocks_kernel<Dtype::k##name>;
      TT_CUDA_BLOCK_TYPES(TT_CASE)
#undef TT_CASE
    default:
      return nullptr;
  }
}

bool is_dense(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBF16;
}

}  // namespace

Status gather_rows(const ExecContext& ctx, const GatherRowsArgs& a) {
  if (const Status s = check_gather_rows_shapes(a); s != Status::kOk) return s;
  const GatherKernel kernel = gather_kernel(a.table.dtype);
  if (kernel == nullptr) return Status::kUnsupported;
  const int64_t units = is_dense(a.table.dtype) ? a.out.cols : a.out.cols / 32;
  return launch_rows(kernel, a.out.rows, gpu::ceil_div(units, kThreads), row_threads(units, kThreads), 0, ctx,
                     a);
}

Status convert_rows(const ExecContext& ctx, const ConvertRowsArgs& a) {
  if (const Status s = check_convert_rows_shapes(a); s != Status::kOk) return s;
  if (rotated_dims(a.rotation) != 0 && a.x.cols > 0x7fffffff) {
    return gpu::fail(Status::kUnsupported, "convert_rows: more than 2^31 - 1 columns to rotate");
  }
  auto* kernel = convert_dense_kernel<Dtype::kF32>;
  if (a.out.dtype == Dtype::kF16) kernel = convert_dense_kernel<Dtype::kF16>;
  if (a.out.dtype == Dtype::kBF16) kernel = convert_dense_kernel<Dtype::kBF16>;
  if (a.out.dtype == Dtype::kQ8_0) kernel = convert_q8_0_kernel;
  return launch_rows(kernel, a.x.rows, gpu::ceil_div(a.out.cols, kThreads), row_threads(a.out.cols, kThreads),
                     0, ctx, a);
}

}  // namespace trimtok::cuda
