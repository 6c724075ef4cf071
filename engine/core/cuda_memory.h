// Memory of a CUDA device behind the device seam (trimtok/device.h), and the one stream of its ops.
#pragma once

#include <memory>
#include <string>

#include "engine/core/memory.h"

namespace trimtok {

class CudaMemory : public DeviceMemory {
 public:
  virtual void* stream() const noexcept = 0;
};

// null, with the reason: a build without CUDA, no driver, no device, one that is too old.
std::shared_ptr<CudaMemory> cuda_memory(std::string& reason);

}  // namespace trimtok
