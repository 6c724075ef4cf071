// Device memory that any machine has, to prove that the engine treats a device as one: pages that nobody may
// touch, opened while an op or a copy runs. A host access that should have been a copy is a segmentation
// fault; an op that is given host memory is an error naming op and argument. What comes back to the allocator
// is overwritten with NaN.
#pragma once

#include <cstddef>
#include <memory>

#include "engine/core/backend.h"

namespace trimtok {

// limit: bytes that it hands out at most.
MemoryPtr isolated_memory(size_t limit);
// Opens `memory`, which isolated_memory() made, for the ops that it sees, and checks their pointers.
std::unique_ptr<OpWatch> isolated_watch(const MemoryPtr& memory);

}  // namespace trimtok
