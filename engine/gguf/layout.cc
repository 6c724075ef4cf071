// Tensor infos and where their data lies (spec 1.3, 1.4, 1.9 points 8-10, 2.1).
#include <algorithm>
#include <bit>
#include <cinttypes>
#include <limits>

#include "engine/gguf/quote.h"
#include "engine/gguf/shard.h"

namespace trimtok {
namespace {

constexpr uint64_t kMaxNameBytes = 63;
constexpr int64_t kDefaultAlignment = 32;
constexpr int64_t kMinAlignment = 8;  // f64 elements and quantisation blocks are read in place
constexpr int64_t kMaxAlignment = int64_t{1} << 20;

uint64_t align_up(uint64_t n, uint64_t alignment) {
  return (n + alignment - 1) / alignment * alignment;
}

uint64_t read_alignment(Reader& reader, const Shard& shard) {
  const auto found = shard.key_index.find("general.alignment");
  if (found == shard.key_index.end()) return kDefaultAlignment;
  const int64_t alignment = std::get<int64_t>(shard.metadata[found->second].second);
  if (alignment < kMinAlignment || alignment > kMaxAlignment ||
      !std::has_single_bit(static_cast<uint64_t>(alignment))) {
    reader.enter("key 'general.alignment'");
    reader.fail(ErrorCode::kFormat, "is %" PRId64 ", expected a power of two from %" PRId64 " to %" PRId64,
                alignment, kMinAlignment, kMaxAlignment);
  }
  return static_cast<uint64_t>(alignment);
}

std::string read_name(Reader& reader, uint64_t i) {
  reader.enter(format("tensor number %" PRIu64, i));
  const std::string_view name = reader.text(kMaxNameBytes, "name");
  if (name.empty()) reader.fail(ErrorCode::kFormat, "the name is empty, expected 1 to 63 bytes");
  for (const char c : name) {
    if (c < 0x20 || c > 0x7e) {
      reader.fail(ErrorCode::kFormat, "the name is %s, expected printable ASCII", quote_text(name).c_str());
    }
  }
  return std::string(name);
}

Dtype read_dtype(Reader& reader) {
  const auto id = reader.get<int32_t>("type");
  const DtypeInfo* info = dtype_info(id);
  if (info == nullptr) {
    const bool removed = id == 4 || id == 5 || (id >= 31 && id <= 33) || (id >= 36 && id <= 38);
    reader.fail(ErrorCode::kUnsupported, "type id is %" PRId32 ", which %s; quantise the model again", id,
                removed ? "was removed from the format" : "is no tensor type known to this version");
  }
  if (info->use == DtypeUse::kRuntime) {
    reader.fail(ErrorCode::kFormat, "type is %s, which exists at run time only and never in a file",
                info->name);
  }
  return static_cast<Dtype>(id);
}

// Fails unless a * b fits in an int64.
int64_t multiply(const Reader& reader, int64_t a, int64_t b, const char* what) {
  if (b != 0 && a > std::numeric_limits<int64_t>::max() / b) {
    reader.fail(ErrorCode::kFormat, "the number of %s exceeds 2^63 - 1; its dimensions are damaged", what);
  }
  return a * b;
}

void read_shape(Reader& reader, TensorInfo& tensor) {
  const auto n_dims = reader.get<uint32_t>("dimension count");
  if (n_dims > 4) reader.fail(ErrorCode::kFormat, "dimension count is %" PRIu32 ", expected 0 to 4", n_dims);
  tensor.n_dims = static_cast<int32_t>(n_dims);
  for (uint32_t d = 0; d < n_dims; ++d) {
    const auto n = reader.get<uint64_t>("dimension");
    if (n > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      reader.fail(ErrorCode::kFormat, "dimension %" PRIu32 " is %" PRIu64 ", expected at most 2^63 - 1", d,
                  n);
    }
    tensor.ne[d] = static_cast<int64_t>(n);
  }
}

void set_bytes(const Reader& reader, TensorInfo& tensor) {
  const DtypeInfo& info = *dtype_info(tensor.dtype);
  int64_t elements = 1;
  for (const int64_t n : tensor.ne) elements = multiply(reader, elements, n, "elements");
  if (tensor.ne[0] % info.block_elems != 0) {
    reader.fail(ErrorCode::kFormat,
                "dimension 0 is %" PRId64 ", expected a multiple of %" PRId32 ", the block of %s",
                tensor.ne[0], info.block_elems, info.name);
  }
  tensor.bytes =
      static_cast<size_t>(multiply(reader, elements / info.block_elems, info.block_bytes, "bytes"));
}

void place(const Reader& reader, std::span<const std::byte> bytes, uint64_t data_start, uint64_t alignment,
           uint64_t offset, TensorInfo& tensor) {
  if (offset % alignment != 0) {
    reader.fail(ErrorCode::kFormat, "offset is %" PRIu64 ", expected a multiple of the alignment %" PRIu64,
                offset, alignment);
  }
  // An empty tensor at the very end may point behind padding that was never written.
  const uint64_t size = bytes.size();
  const uint64_t end = tensor.bytes == 0 ? align_up(size, alignment) : size;
  const uint64_t room = data_start < end ? end - data_start : 0;
  if (offset > room || tensor.bytes > room - offset) {
    reader.fail(ErrorCode::kFormat,
                "its %zu bytes at offset %" PRIu64
                " of the data section end outside the file, "
                "expected at most %" PRIu64 " bytes of data; the file is truncated or damaged",
                tensor.bytes, offset, room);
  }
  if (tensor.bytes != 0) tensor.data = bytes.data() + data_start + offset;
}

// Overlaps are refused, holes and unused bytes at the end reported (spec 1.4).
void check_gaps(Reader& reader, const std::byte* data, const std::byte* file_end, uint64_t alignment,
                Shard& shard) {
  std::vector<const TensorInfo*> sorted;
  for (const TensorInfo& tensor : shard.tensors) {
    if (tensor.bytes != 0) sorted.push_back(&tensor);
  }
  std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) { return a->data < b->data; });
  uint64_t end = 0;  // of the tensors so far, relative to the data section
  uint64_t holes = 0;
  uint64_t hole_bytes = 0;
  const TensorInfo* previous = nullptr;
  for (const TensorInfo* tensor : sorted) {
    const auto begin = static_cast<uint64_t>(tensor->data - data);
    if (begin < end) {
      reader.enter("tensor " + quote_text(tensor->name));
      reader.fail(ErrorCode::kFormat,
                  "its data at offset %" PRIu64 " overlaps tensor %s, which ends at %" PRIu64, begin,
                  quote_text(previous->name).c_str(), end);
    }
    if (begin > align_up(end, alignment)) {
      ++holes;
      hole_bytes += begin - end;
    }
    end = begin + tensor->bytes;
    previous = tensor;
  }
  if (holes != 0) {
    shard.warnings.push_back(
        format("%" PRIu64 " holes between tensors, %" PRIu64 " bytes in all", holes, hole_bytes));
  }
  const auto data_bytes = file_end > data ? static_cast<uint64_t>(file_end - data) : 0;
  if (data_bytes > align_up(end, alignment)) {
    shard.warnings.push_back(
        format("%" PRIu64 " bytes after the last tensor belong to nothing", data_bytes - end));
  }
}

}  // namespace

void read_tensors(Reader& reader, uint64_t n_tensors, std::span<const std::byte> bytes, Shard& shard) {
  const uint64_t alignment = read_alignment(reader, shard);
  std::vector<uint64_t> offsets;
  offsets.reserve(n_tensors);
  shard.tensors.reserve(n_tensors);
  for (uint64_t i = 0; i < n_tensors; ++i) {
    TensorInfo tensor;
    tensor.name = read_name(reader, i);
    reader.enter("tensor " + quote_text(tensor.name));
    if (!shard.tensor_index.emplace(tensor.name, i).second) {
      reader.fail(ErrorCode::kFormat, "the name appears twice, expected once");
    }
    read_shape(reader, tensor);
    tensor.dtype = read_dtype(reader);
    offsets.push_back(reader.get<uint64_t>("offset"));
    set_bytes(reader, tensor);
    shard.tensors.push_back(std::move(tensor));
  }
  if (n_tensors == 0) return;  // a vocabulary file ends here, without padding

  const uint64_t data_start = align_up(reader.offset(), alignment);
  for (uint64_t i = 0; i < n_tensors; ++i) {
    TensorInfo& tensor = shard.tensors[i];
    reader.enter("tensor " + quote_text(tensor.name));
    place(reader, bytes, data_start, alignment, offsets[i], tensor);
  }
  const uint64_t start = std::min<uint64_t>(data_start, bytes.size());
  check_gaps(reader, bytes.data() + start, bytes.data() + bytes.size(), alignment, shard);
}

}  // namespace trimtok
