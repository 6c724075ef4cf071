// out[t] = x[t] + y[t mod y.rows]: memory-bound, 12 bytes per element.
#include "kernels/check.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/ops.h"

namespace trimtok::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) add_kernel(AddArgs a) {
  const int64_t t = blockIdx.y + static_cast<int64_t>(blockIdx.z) * gridDim.y;
  if (t >= a.out.rows) return;
  const auto* x = reinterpret_cast<const float*>(static_cast<const char*>(a.x.data) + t * a.x.stride);
  const auto* y =
      reinterpret_cast<const float*>(static_cast<const char*>(a.y.data) + t % a.y.rows * a.y.stride);
  auto* out = reinterpret_cast<float*>(static_cast<char*>(a.out.data) + t * a.out.stride);
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i < a.out.cols) out[i] = x[i] + y[i];
}

}  // namespace

Status add(const ExecContext& ctx, const AddArgs& a) {
  if (const Status s = check_add_shapes(a); s != Status::kOk) return s;
  constexpr int64_t kMaxY = 65535;
  const int64_t rows_y = a.out.rows < kMaxY ? a.out.rows : kMaxY;
  if (rows_y == 0) return Status::kOk;
  const dim3 grid(static_cast<unsigned>(gpu::ceil_div(a.out.cols, kThreads)), static_cast<unsigned>(rows_y),
                  static_cast<unsigned>(gpu::ceil_div(a.out.rows, rows_y)));
  return gpu::launch(add_kernel, grid, dim3(kThreads), 0, ctx.stream, a);
}

}  // namespace trimtok::cuda
