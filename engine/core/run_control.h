// How a caller watches and stops long work. Passed down through encode, prefill and decode.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "engine/core/backend.h"
#include "engine/core/error.h"
#include "trimtok/view.h"

namespace trimtok {

// Called after a named step of a tower or decoder ("attn_out", layer 3). Tests compare these with the
// reference implementation; a null tap costs one branch. `value` is in memory of the host, for this call.
using Tap = std::function<void(const char* name, int32_t layer, const ConstMatrix& value)>;

class RunControl {
 public:
  // Polled between layers on the calling thread; may throw (Python's KeyboardInterrupt does).
  std::function<void()> poll;
  // phase is "load", "encode" or "prefill"; done counts layers (load: tensors) out of total.
  std::function<void(const char* phase, int64_t done, int64_t total)> progress;
  Tap tap;
  const std::atomic<bool>* cancelled = nullptr;

  // Towers and decoders call this at least once per layer.
  void step(const char* phase, int64_t done, int64_t total) const {
    if (cancelled != nullptr && cancelled->load(std::memory_order_relaxed)) {
      throw Error(ErrorCode::kCancelled, "[generate] cancelled");
    }
    if (poll) poll();
    if (progress) progress(phase, done, total);
  }
  void emit(Backend& backend, const char* name, int32_t layer, const ConstMatrix& value) const {
    if (!tap) return;
    backend.settle();
    Buffer copy;
    tap(name, layer, backend.read(value, copy));
  }
};

}  // namespace trimtok
