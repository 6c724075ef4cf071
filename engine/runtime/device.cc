#include "engine/runtime/device.h"

#include <cstdlib>
#include <string_view>

namespace trimtok {

DeviceChoice choose_device(const std::string& device, int32_t n_threads, int32_t n_threads_batch,
                           ComputePolicy compute) {
  if (n_threads == 0) n_threads = ThreadPool::default_n_threads();
  if (n_threads_batch == 0) n_threads_batch = n_threads;
  constexpr std::string_view kIsolated = "isolated";
  if (device.starts_with(kIsolated)) {
    const char* mib = device.c_str() + kIsolated.size();
    return {Backend::isolated(n_threads, (*mib == ':' ? std::strtoull(mib + 1, nullptr, 10) : 512) << 20,
                              compute),
            ""};
  }
  if (device != "auto" && device != "cpu" && device != "cuda") {
    fail(ErrorCode::kInvalidArgument, "[device] is \"%.32s\", must be one of auto, cpu, cuda",
         device.c_str());
  }
  if (device == "cpu") return {Backend::cpu(n_threads_batch, compute, n_threads), ""};
  std::string reason;
  std::unique_ptr<Backend> cuda = Backend::cuda(n_threads, reason, compute);
  if (cuda != nullptr && device == "auto" && cuda->ops().isa == Isa::kCudaHost) {
    cuda = nullptr;
    reason = "the CUDA kernels of this build run on the host, for tests";
  }
  if (cuda != nullptr && !cuda_serves(compute)) {
    fail(ErrorCode::kUnsupported,
         "[compute] \"%s\" has no CUDA kernels; use \"auto\" or \"int8\", or device=\"cpu\"",
         compute_policy_name(compute));
  }
  if (cuda != nullptr) return {std::move(cuda), ""};
  if (device == "auto")
    return {Backend::cpu(n_threads_batch, compute, n_threads), "auto took the CPU: " + reason};
  fail(ErrorCode::kUnsupported, "[device] cuda cannot be used: %s; use device=\"cpu\"", reason.c_str());
}

}  // namespace trimtok
