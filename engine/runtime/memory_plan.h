// What a model will need, in bytes, before it does.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/language/decoder.h"
#include "engine/vision/tower.h"

namespace trimtok {

struct PlanRequest {
  const Decoder* decoder = nullptr;
  const Tower* tower = nullptr;  // null: text only
  Placement place;               // null memory: everything is the host's
  Dtype kv_dtype = Dtype::kF16;
  int64_t n_images = 0;
  int64_t n_ctx = 0;        // rows of the cache
  int32_t image_width = 0;  // of every image
  int32_t image_height = 0;
};

// Of the device; the part that gpu_layers leaves on the host is `host`. Without a device all is the host's.
struct MemoryPlan {
  size_t weights = 0;  // of the language model
  size_t tower = 0;
  size_t kv = 0;
  size_t rows = 0;         // of pictures and of the prompt, as they enter the language model
  size_t scratch = 0;      // activations; scratch inside ops is not in it
  size_t host = 0;         // weights, cache and activations of layers that are not on the device
  int64_t image_rows = 0;  // of all images together

  size_t total() const { return weights + tower + kv + rows + scratch; }
};

// Runs the code of the model without computing (engine/core/dry_run.h); costs some milliseconds.
MemoryPlan plan_memory(const PlanRequest& request);

// Bytes that this process could have, what it has included: of the device, or of the host where memory is
// null.
size_t memory_budget(const MemoryPtr& memory);

}  // namespace trimtok
