// One GGUF file parsed and checked (spec sections 1.1-1.4, 1.9). A split model has several.
#pragma once

#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/gguf/file.h"
#include "engine/gguf/reader.h"

namespace trimtok {

struct Shard {
  uint32_t version = 0;
  std::vector<std::pair<std::string, MetaValue>> metadata;
  std::vector<StoredType> stored_types;
  std::map<std::string, size_t, std::less<>> key_index;
  std::vector<TensorInfo> tensors;
  std::map<std::string, size_t, std::less<>> tensor_index;
  std::vector<std::string> warnings;
};

// Views into `bytes` end up in the result's tensors. `path` is for messages.
Shard parse_shard(std::span<const std::byte> bytes, const std::string& path);

// Steps of parse_shard, each in a file of its own.
void read_metadata(Reader& reader, uint64_t n_keys, Shard& shard);
void read_tensors(Reader& reader, uint64_t n_tensors, std::span<const std::byte> bytes, Shard& shard);

// "string 'abc'", "array of 3 integers": a metadata value as errors show it.
std::string describe(const MetaValue& value);

}  // namespace trimtok
