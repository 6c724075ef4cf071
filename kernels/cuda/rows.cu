// Ops that work row by row, all bound by memory: each element is read once from DRAM and written once (8 to
// 12 bytes), later passes over a row hit L1. Blocks own rows or pieces of rows; a warp's accesses are
// contiguous, 16 bytes a thread where rows are aligned for it.
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/rotate.cuh"

namespace trimtok::cuda {
namespace {

constexpr unsigned kMapThreads = 256;   // elementwise kernels
constexpr unsigned kNormThreads = 512;  // one block a row
constexpr int kNormWarps = kNormThreads / kWarp;

// ---- add ----

// A block owns a piece of row blockIdx.x. 12 bytes and 1 FLOP an element; y's rows repeat and hit L2.
template <int kPack>
__global__ void __launch_bounds__(kMapThreads) add_kernel(AddArgs a) {
  const int64_t t = blockIdx.x;
  const float* x = row_of<float>(a.x, t);
  const float* y = row_of<float>(a.y, t % a.y.rows);
  float* out = row_of<float>(a.out, t);
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.x * kPack;
  for (int64_t i = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kPack; i < a.out.cols;
       i += step) {
    Pack<kPack> v = load_pack<kPack>(x + i);
    const Pack<kPack> w = load_pack<kPack>(y + i);
#pragma unroll
    for (int e = 0; e < kPack; ++e) v.v[e] += w.v[e];
    store_pack<kPack>(out + i, v);
  }
}

// ---- gated_act ----

// As add_kernel; 12 bytes and one activation (some 20 FLOPs) an element.
template <int kPack>
__global__ void __launch_bounds__(kMapThreads) gated_act_kernel(GatedActArgs a) {
  const int64_t t = blockIdx.x;
  const float* gate = row_of<float>(a.gate, t);
  const float* up = row_of<float>(a.up, t);
  float* out = row_of<float>(a.out, t);
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.x * kPack;
  for (int64_t i = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kPack; i < a.out.cols;
       i += step) {
    Pack<kPack> v = load_pack<kPack>(gate + i);
    const Pack<kPack> u = load_pack<kPack>(up + i);
#pragma unroll
    for (int e = 0; e < kPack; ++e) v.v[e] = activate(a.act, v.v[e]) * u.v[e];
    store_pack<kPack>(out + i, v);
  }
}

// ---- rms_norm, layer_norm ----

// A block owns a row and passes over it twice, for layer_norm three times. 8 bytes an element, 4 or 7 FLOPs.
// Shared: one float a warp.
template <int kPack>
__global__ void __launch_bounds__(kNormThreads) norm_kernel(ConstMatrix x, Matrix out, RowNorm norm) {
  GPU_SHARED(float, slots, [kNormWarps]);
  const int64_t t = blockIdx.x;
  const float* from = row_of<float>(x, t);
  float* to = row_of<float>(out, t);
  const RowStats stats = stats_of_row<kPack>(norm, from, x.cols, slots);
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * kPack; i < x.cols; i += blockDim.x * kPack) {
    Pack<kPack> v = load_pack<kPack>(from + i);
#pragma unroll
    for (int e = 0; e < kPack; ++e) v.v[e] = (v.v[e] - stats.mean) * stats.scale;
    if (norm.weight != nullptr) {
      const Pack<kPack> w = load_pack<kPack>(norm.weight + i);
#pragma unroll
      for (int e = 0; e < kPack; ++e) v.v[e] *= w.v[e];
    }
    if (norm.bias != nullptr) {
      const Pack<kPack> b = load_pack<kPack>(norm.bias + i);
#pragma unroll
      for (int e = 0; e < kPack; ++e) v.v[e] += b.v[e];
    }
    store_pack<kPack>(to + i, v);
  }
}

Status norm_rows(const ExecContext& ctx, const ConstMatrix& x, const Matrix& out, const RowNorm& norm) {
  if (x.cols == 0) return Status::kOk;
  const bool packs = in_packs(out) && in_packs(x) && in_packs(norm.weight) && in_packs(norm.bias);
  return launch_rows(packs ? norm_kernel<4> : norm_kernel<1>, x.rows, 1,
                     row_threads(packs ? x.cols / 4 : x.cols, kNormThreads), 0, ctx, x, out, norm);
}

// ---- rope ----

// A thread owns one pair of one head of row blockIdx.x: 16 bytes read and written in place, 6 FLOPs; the
// tables hit L1 for every head but the first.
__global__ void __launch_bounds__(kMapThreads) rope_kernel(RopeArgs a) {
  const int64_t t = blockIdx.x;
  const int64_t half = a.cos.cols;
  const int64_t n_pairs = a.x.cols / a.head_dim * half;
  float* row = row_of<float>(a.x, t);
  const float* cos = row_of<float>(a.cos, t);
  const float* sin = row_of<float>(a.sin, t);
  for (int64_t p = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; p < n_pairs;
       p += static_cast<int64_t>(gridDim.y) * blockDim.x) {
    const auto head = static_cast<int64_t>(static_cast<uint32_t>(p) / static_cast<uint32_t>(half));
    const int64_t k = p - head * half;
    float* x = row + head * a.head_dim;
    const bool adjacent = a.pairs == RopePairs::kAdjacent;
    float* pu = adjacent ? x + 2 * k : x + k;
    float* pv = adjacent ? pu + 1 : pu + half;
    const float u = *pu;
    const float v = *pv;
    *pu = rotated_u(u, v, cos[k], sin[k]);
    *pv = rotated_v(u, v, cos[k], sin[k]);
  }
}

// ---- patchify ----

// A block owns one patch, a thread one element at a time: 8 bytes an element. Reads are runs of `patch`
// pixels, writes are contiguous.
__global__ void __launch_bounds__(kMapThreads) patchify_kernel(PatchifyArgs a) {
  const int32_t per_row = a.width / a.patch;
  const auto p = static_cast<int32_t>(blockIdx.x);
  const int64_t top = static_cast<int64_t>(p / per_row) * a.patch;
  const int64_t left = static_cast<int64_t>(p % per_row) * a.patch;
  float* out = row_of<float>(a.out, p);
  for (int64_t i = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; i < a.out.cols;
       i += static_cast<int64_t>(gridDim.y) * blockDim.x) {
    const auto line = static_cast<int32_t>(i / a.patch);  // of all channels
    const auto x = static_cast<int32_t>(i - static_cast<int64_t>(line) * a.patch);
    const int64_t c = line / a.patch;
    const int64_t y = line % a.patch;
    out[i] = a.pixels[(c * a.height + top + y) * a.width + left + x];
  }
}

int64_t chunks_of(int64_t units) {
  return gpu::ceil_div(units, kMapThreads);
}

}  // namespace

Status add(const ExecContext& ctx, const AddArgs& a) {
  if (const Status s = check_add_shapes(a); s != Status::kOk) return s;
  const bool packs = in_packs(a.out) && in_packs(a.x) && in_packs(a.y);
  const int64_t units = packs ? a.out.cols / 4 : a.out.cols;
  return launch_rows(packs ? add_kernel<4> : add_kernel<1>, a.out.rows, chunks_of(units),
                     row_threads(units, kMapThreads), 0, ctx, a);
}

Status gated_act(const ExecContext& ctx, const GatedActArgs& a) {
  if (const Status s = check_gated_act_shapes(a); s != Status::kOk) return s;
  const bool packs = in_packs(a.out) && in_packs(a.gate) && in_packs(a.up);
  const int64_t units = packs ? a.out.cols / 4 : a.out.cols;
  return launch_rows(packs ? gated_act_kernel<4> : gated_act_kernel<1>, a.out.rows, chunks_of(units),
                     row_threads(units, kMapThreads), 0, ctx, a);
}

Status rms_norm(const ExecContext& ctx, const RmsNormArgs& a) {
  if (const Status s = check_rms_norm_shapes(a); s != Status::kOk) return s;
  return norm_rows(ctx, a.x, a.out, {RowNorm::Kind::kRms, a.weight, nullptr, a.eps});
}

Status layer_norm(const ExecContext& ctx, const LayerNormArgs& a) {
  if (const Status s = check_layer_norm_shapes(a); s != Status::kOk) return s;
  return norm_rows(ctx, a.x, a.out, {RowNorm::Kind::kLayer, a.weight, a.bias, a.eps});
}

Status rope(const ExecContext& ctx, const RopeArgs& a) {
  if (const Status s = check_rope_shapes(a); s != Status::kOk) return s;
  const int64_t n_pairs = a.x.cols / a.head_dim * a.cos.cols;
  if (n_pairs > 0x7fffffff) return gpu::fail(Status::kUnsupported, "rope: more than 2^31 - 1 pairs in a row");
  return launch_rows(rope_kernel, a.x.rows, chunks_of(n_pairs), row_threads(n_pairs, kMapThreads), 0, ctx, a);
}

Status patchify(const ExecContext& ctx, const PatchifyArgs& a) {
  if (const Status s = check_patchify_shapes(a); s != Status::kOk) return s;
  return launch_rows(patchify_kernel, a.out.rows, chunks_of(a.out.cols), row_threads(a.out.cols, kMapThreads),
                     0, ctx, a);
}

}  // namespace trimtok::cuda
