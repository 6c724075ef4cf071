// gram: similarities of all pairs of rows, symmetric to the bit, on int8 tensor cores. The pruner ranks rows
// by differences of these numbers, which half-precision inputs would drown; integers keep them.
//
// Every row becomes whole numbers q of three int8 digits, 65536 a + 256 b + c, that reach 8355711, with one
// scale a row. All products of digits but c c are summed exactly, in four sums of 32 bits by their weights.
// So x . y errs by the rounding of both rows, 0.8 * 2^-24 of max|x| |y| (rms), as an f32 evaluation of very
// few columns does, and the order of the sum plays no part. Leaving out b c too would save two of the eight
// products, and err by 2^-25 sqrt(D) where an outlier makes up most of a row, as towers have them.
//
// A block of four warps owns one 64 x 64 tile on or above the diagonal and writes it twice, mirrored; digits
// arrive by cp.async, three slices of 32 columns deep. (last - first) T D FLOPs of the definition, eight
// times that on int8 units (twice the rate of f16, on GeForce four times); 3 bytes per element from L2, 8
// bytes written per pair. Scratch: 3 bytes per element of the rows from `first` on.
#include "kernels/cuda/device.cuh"

namespace trimtok::cuda {
namespace {

constexpr int kTile = 64;
constexpr int kThreads = 128;
constexpr int kPrepareThreads = 256;
constexpr int kDigits = 3;
constexpr int kSlice = 32;            // columns, as deep as one mma
constexpr int kStride = kSlice + 16;  // bytes between rows in shared memory: ldmatrix meets no bank twice
constexpr int kStages = 3;
constexpr int kPlane = kTile * kStride;  // one digit of one operand
constexpr int kStage = 2 * kDigits * kPlane;
constexpr double kLargest = 127.0 * 65536.0 + 127.0 * 256.0 + 127.0;
// 32 bits hold that many |a c| + |b b| + |c a| <= 127 * 128 + 128 * 128 + 128 * 127.
constexpr int64_t kMostColumns = 43904;

// The prepared rows, from GramArgs::first on.
struct Rows {
  int8_t* digits;  // [kDigits][count][padded]: a, b, c; zeros behind D
  double* scales;  // [count]
  int64_t count;
  int64_t padded;  // D rounded up to kSlice
};

// A block owns a row: 4 bytes read (twice, the second time from L1), 3 written per element.
__global__ void __launch_bounds__(kPrepareThreads) prepare_gram_kernel(GramArgs a, Rows rows) {
  GPU_SHARED(float, slots, [kPrepareThreads / kWarp]);
  const int64_t r = blockIdx.x;
  const float* x = row_of<float>(a.x, a.first + r);
  float largest = 0.0f;
  bool finite = true;
  for (int64_t i = threadIdx.x; i < a.x.cols; i += blockDim.x) {
    largest = fmaxf(largest, fabsf(x[i]));
    finite = finite && fabsf(x[i]) <= 3.4028234e38f;
  }
  finite = __syncthreads_and(finite ? 1 : 0) != 0;
  largest = block_max(largest, slots);
  const bool zero = !finite || largest == 0.0f;
  const double up = zero ? 0.0 : kLargest / static_cast<double>(largest);
  if (threadIdx.x == 0) {
    rows.scales[r] = finite ? static_cast<double>(largest) / kLargest : static_cast<double>(quiet_nan());
  }
  int8_t* digits = rows.digits + r * rows.padded;
  const int64_t plane = rows.count * rows.padded;
  for (int64_t i = threadIdx.x; i < rows.padded; i += blockDim.x) {
    const int32_t q = zero || i >= a.x.cols ? 0 : __double2int_rn(static_cast<double>(x[i]) * up);
    const int32_t c = static_cast<int8_t>(q);
    const int32_t ab = (q - c) / 256;
    const int32_t b = static_cast<int8_t>(ab);
    digits[i] = static_cast<int8_t>((ab - b) / 256);
    digits[plane + i] = static_cast<int8_t>(b);
    digits[2 * plane + i] = static_cast<int8_t>(c);
  }
}

// Sums of products of digits that weigh 2^32, 2^24, 2^16 and 2^8.
struct Sums {
  int32_t v[4][4];
  __device__ __forceinline__ double total(int e) const {
    return ((static_cast<double>(v[0][e]) * 256.0 + v[1][e]) * 256.0 + v[2][e]) * 65536.0 + v[3][e] * 256.0;
  }
};

// One slice of a warp's 32 x 32.
__device__ __forceinline__ void multiply_slice(const int8_t* si, const int8_t* sj, Sums (&sums)[2][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  // Four bytes are to ldmatrix two of its elements: the fragments of m16n8k16 in f16, twice as deep.
  const int8_t* i_row = si + (warp / 2 * 32 + lane % 16) * kStride + lane / 16 * 16;
  const int8_t* j_row = sj + (warp % 2 * 32 + lane % 8 + lane / 16 * 8) * kStride + lane / 8 % 2 * 16;
  uint32_t fj[kDigits][4][2];
#pragma unroll
  for (int digit = 0; digit < kDigits; ++digit) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      uint32_t r[4];
      gpu::ldmatrix_x4(r, j_row + digit * kPlane + n * 16 * kStride);
      fj[digit][2 * n][0] = r[0];
      fj[digit][2 * n][1] = r[1];
      fj[digit][2 * n + 1][0] = r[2];
      fj[digit][2 * n + 1][1] = r[3];
    }
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int digit = 0; digit < kDigits; ++digit) {
      uint32_t fi[4];
      gpu::ldmatrix_x4(fi, i_row + digit * kPlane + m * 16 * kStride);
#pragma unroll
      for (int other = 0; other < kDigits && digit + other < 4; ++other) {
#pragma unroll
        for (int n = 0; n < 4; ++n) gpu::mma_s8(sums[m][n].v[digit + other], fi, fj[other][n]);
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads, 2) gram_kernel(GramArgs a, Rows rows) {
  const int64_t i0 = static_cast<int64_t>(blockIdx.y) * kTile;  // counted from a.first, as all rows here
  const int64_t j0 = static_cast<int64_t>(blockIdx.x) * kTile;
  if (j0 < i0) return;  // below the diagonal: some other tile's mirror image
  GPU_DYN_SHARED(int8_t, shared);
  const auto tid = static_cast<int>(threadIdx.x);
  const auto n_slices = static_cast<int>(rows.padded / kSlice);
  const auto copy_slice = [&](int slice) {
    int8_t* to = shared + slice % kStages * kStage;
    for (int u = tid; u < 2 * kDigits * kTile * 2; u += kThreads) {
      const int line = u / 2;  // of both operands, digit by digit
      const int64_t r = (line < kDigits * kTile ? i0 : j0) + line % kTile;
      const bool there = r < rows.count;
      const int64_t digit = line / kTile % kDigits;
      const int8_t* from = rows.digits + (digit * rows.count + (there ? r : 0)) * rows.padded +
                           static_cast<int64_t>(slice) * kSlice + u % 2 * 16;
      gpu::cp_async16(to + line * kStride + u % 2 * 16, from, there);
    }
  };
  Sums sums[2][4] = {};
  for (int slice = 0; slice + 1 < kStages; ++slice) {
    if (slice < n_slices) copy_slice(slice);
    gpu::cp_async_commit();
  }
  for (int slice = 0; slice < n_slices; ++slice) {
    gpu::cp_async_wait<kStages - 2>();
    __syncthreads();  // this slice is there for all, and all are done with the one before
    if (slice + kStages - 1 < n_slices) copy_slice(slice + kStages - 1);
    gpu::cp_async_commit();
    const int8_t* stage = shared + slice % kStages * kStage;
    multiply_slice(stage, stage + kDigits * kPlane, sums);
  }

  const int lane = tid % kWarp;
  const int64_t mine_i = i0 + tid / kWarp / 2 * 32 + lane / 4;
  const int64_t mine_j = j0 + tid / kWarp % 2 * 32 + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t i = mine_i + m * 16 + e / 2 * 8;
        const int64_t j = mine_j + n * 8 + e % 2;
        if (a.first + i >= a.last || j >= rows.count || j < i) continue;
        const double product = sums[m][n].total(e) * rows.scales[i] * rows.scales[j];
        const auto similarity = static_cast<float>(product);
        row_of<float>(a.out, a.first + i)[a.first + j] = similarity;
        row_of<float>(a.out, a.first + j)[a.first + i] = similarity;
      }
    }
  }
}

}  // namespace

Status gram(const ExecContext& ctx, const GramArgs& a) {
  if (const Status s = check_gram_shapes(a); s != Status::kOk) return s;
  if (a.first == a.last) return Status::kOk;
  if (a.x.cols > kMostColumns) return gpu::fail(Status::kUnsupported, "gram: more than 43904 columns");
  Rows rows{};
  rows.count = a.x.rows - a.first;
  rows.padded = gpu::ceil_div(a.x.cols, kSlice) * kSlice;
  const int64_t scale_bytes = gpu::ceil_div(rows.count, 2) * 16;  // digits stay aligned to 16
  const int64_t bytes = scale_bytes + kDigits * rows.count * rows.padded;
  auto* scratch = static_cast<char*>(get_scratch(ctx, static_cast<size_t>(bytes)));
  if (scratch == nullptr) return Status::kOutOfMemory;
  rows.scales = reinterpret_cast<double*>(scratch);
  rows.digits = reinterpret_cast<int8_t*>(scratch + scale_bytes);
  const Status s = launch_rows(prepare_gram_kernel, rows.count, 1, row_threads(rows.padded, kPrepareThreads),
                               0, ctx, a, rows);
  if (s != Status::kOk) return s;
  const int64_t tiles_i = gpu::ceil_div(a.last - a.first, kTile);
  const int64_t tiles_j = gpu::ceil_div(rows.count, kTile);
  if (tiles_i > 65535) return gpu::fail(Status::kUnsupported, "gram: more than 4194240 rows in one call");
  const dim3 grid(static_cast<unsigned>(tiles_j), static_cast<unsigned>(tiles_i));
  return gpu::launch(gram_kernel, grid, dim3(kThreads), size_t{kStages} * kStage, ctx.stream, a, rows);
}

}  // namespace trimtok::cuda
