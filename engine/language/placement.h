// Which layers of a decoder lie, and run, on a device. A decoder that is too large for it has its first
// layers there: rows come from the tower, which is there too, and cross to the host once, on their way to the
// logits.
#pragma once

#include <cstdint>
#include <limits>

#include "engine/core/backend.h"

namespace trimtok {

inline constexpr int32_t kAllLayers = std::numeric_limits<int32_t>::max();

struct Placement {
  MemoryPtr memory;               // null: everything is the host's
  int32_t n_layers = kAllLayers;  // layers [0, n_layers) lie in `memory`, with their rows of the cache

  MemoryPtr of_layer(int32_t layer) const { return layer < n_layers ? memory : nullptr; }
  // The embedding table and the output head, often one matrix, stay together: on the device when all layers
  // are.
  MemoryPtr of_tables(int32_t n_decoder_layers) const {
    return n_layers >= n_decoder_layers ? memory : nullptr;
  }
};

// Backends of a placement. `rest` is `first` itself, or one of the host.
struct LayerBackends {
  LayerBackends(Backend& all) : first(all), rest(all) {}  // NOLINT: one backend is the common case
  LayerBackends(Backend& first_in, Backend& rest_in, int32_t n_first_in)
      : first(first_in), rest(rest_in), n_first(n_first_in) {}
  bool is_split() const { return &first != &rest; }

  Backend& first;  // of layers [0, n_first); rows of batches lie in its memory
  Backend& rest;   // of the other layers, the embedding table and the head
  int32_t n_first = kAllLayers;
};

}  // namespace trimtok
