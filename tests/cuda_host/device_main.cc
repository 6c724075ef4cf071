// trimtok_cuda_device_test: the checks of this folder on a real GPU, where the inline PTX of gpu_device.h
// runs. Exit codes: 0 all as it should be, 1 not so, 2 no device.
#include <cstdio>

#include "checks.h"

int main() {
  using namespace trimtok;
  using namespace trimtok::cuda;
  const char* reason = nullptr;
  if (device_count(&reason) == 0) {
    std::printf("no device: %s\n", reason);
    return 2;
  }
  DeviceProperties p;
  report("device properties", device_properties(0, &p) == Status::kOk, last_error());
  std::printf("device \"%s\" sm_%d\n", p.name, p.compute_capability);
  check_features();
  check_tensor_cores(p.compute_capability >= 80);
  for (const auto run : {run_sum, run_gemm, run_farthest}) {
    const Outcome o = run(planted::Bug::kNone);
    report("a sound kernel", o.problem.empty(), o.problem);
  }
  std::printf("cuda_device: %d failures\n", failures());
  return failures() == 0 ? 0 : 1;
}
