// How the host execution layer runs kernels. Free of NVIDIA's headers, so that tests may include it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace cuda_host {

// What a kernel did wrong: where, and which thread of which block.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Order { forward, reverse, random };  // in which runnable threads, warps and blocks take turns
enum class MmaModel { exact, a100, h100 };      // how tensor cores add up

// The defaults come from TRIMTOK_CUDA_HOST_{ORDER,SEED,MMA,CPASYNC,SM,MEMORY_MIB,ISOLATED}.
struct Options {
  Order order = Order::forward;
  uint64_t seed = 1;
  MmaModel mma = MmaModel::exact;
  bool deferred_cp_async =
      true;     // true: the destination is poison until the wait; false: the copy is instant
  int sm = 86;  // the device that is modelled: its shared-memory limit, what mma it has
  size_t device_bytes = size_t{4} << 30;
  bool isolated = false;        // device memory is shut but while kernels and copies run: the host faults
  unsigned char poison = 0xff;  // what shared and fresh device memory holds: NaN
};
Options& options();

}  // namespace cuda_host
