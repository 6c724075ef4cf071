// A backend that computes nothing and holds nothing: the code that runs on it allocates and frees as it does
// on a device, and this counts. What a model needs is measured that way instead of being written down twice.
#pragma once

#include <cstddef>
#include <memory>

#include "engine/core/backend.h"

namespace trimtok {

// Ops do nothing, what the host reads is zeros. Scratch inside ops is not seen: no op asks. With on_host the
// arena is real memory, as the code expects of a backend of the host.
std::unique_ptr<Backend> dry_backend(bool on_host = false);

}  // namespace trimtok
