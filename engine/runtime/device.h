// From the name of a device to a backend that runs on it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "engine/core/backend.h"

namespace trimtok {

struct DeviceChoice {
  std::unique_ptr<Backend> backend;
  std::string note;  // why "auto" took the CPU; empty: nothing to say
};

// device: auto, cpu or cuda; for tests also "isolated" (engine/core/isolated.h), or "isolated:N" with N MiB.
// n_threads: while answers are written, 0 is every CPU that this process may use; n_threads_batch: while
// pictures and prompts are read, 0 is n_threads. compute: see Backend::cpu and
// Backend::cuda. Throws Error(kInvalidArgument) for other names, Error(kUnsupported)
// with the reason when a device that was asked for cannot be had.
DeviceChoice choose_device(const std::string& device, int32_t n_threads, int32_t n_threads_batch = 0,
                           ComputePolicy compute = ComputePolicy::kF32);

}  // namespace trimtok
