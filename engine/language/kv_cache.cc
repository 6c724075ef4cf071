#include "engine/language/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "engine/core/error.h"

namespace trimtok {
namespace {

struct KvDtype {
  const char* name;
  Dtype dtype;
};
constexpr KvDtype kKvDtypes[] = {
    {"f16", Dtype::kF16}, {"bf16", Dtype::kBF16}, {"q8_0", Dtype::kQ8_0}, {"f32", Dtype::kF32}};

}  // namespace

Dtype kv_dtype_from_name(const char* name) {
  std::string known;
  for (const KvDtype& entry : kKvDtypes) {
    if (std::strcmp(name, entry.name) == 0) return entry.dtype;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  fail(ErrorCode::kInvalidArgument, "[kv_dtype] is \"%s\", must be one of %s", name, known.c_str());
}

KvCache::KvCache(int32_t n_layers, int64_t width, Dtype dtype, Placement place)
    : place_(std::move(place)), dtype_(dtype), width_(width), stride_(row_bytes(dtype, width)) {
  if (n_layers < 1 || width < 1) {
    fail(ErrorCode::kInternal, "[kv cache] %d layers of width %lld, both must be at least 1", n_layers,
         static_cast<long long>(width));
  }
  if (stride_ < 0) {
    const DtypeInfo& type = *dtype_info(dtype);
    fail(ErrorCode::kUnsupported,
         "[kv_dtype] %s needs keys whose width is a multiple of %d, this model's are %lld wide; use f16",
         type.name, type.block_elems, static_cast<long long>(width));
  }
  k_.resize(static_cast<size_t>(n_layers));
  v_.resize(static_cast<size_t>(n_layers));
}

void KvCache::reserve(int64_t capacity) {
  if (capacity <= capacity_) return;
  const int64_t n_buffers = 2 * static_cast<int64_t>(k_.size());
  const double mib =
      static_cast<double>(capacity) * static_cast<double>(n_buffers * stride_) / (1024.0 * 1024.0);
  try {
    if (capacity > INT64_MAX / stride_) fail(ErrorCode::kOutOfMemory, "too many rows");
    // A buffer larger than capacity_ says is harmless, so a failure half way leaves a valid cache, and the
    // peak is one buffer above the new size instead of the old size above it.
    for (int32_t il = 0; il < n_layers(); ++il) {
      const MemoryPtr memory = place_.of_layer(il);
      grow(k_[static_cast<size_t>(il)], memory, capacity);
      grow(v_[static_cast<size_t>(il)], memory, capacity);
    }
  } catch (const Error&) {
    fail(ErrorCode::kOutOfMemory,
         "[kv cache] %lld rows of %s need %.1f MiB; use a shorter prompt, a smaller max_tokens or a smaller "
         "kv_dtype",
         static_cast<long long>(capacity), dtype_info(dtype_)->name, mib);
  }
  capacity_ = capacity;
}

void KvCache::make_room(int64_t n) {
  const int64_t needed = length_ + n;
  if (needed > capacity_) reserve(std::max(needed, capacity_ + capacity_ / 2));
}

void KvCache::grow(Buffer& buffer, const MemoryPtr& memory, int64_t capacity) const {
  const size_t bytes = static_cast<size_t>(capacity) * static_cast<size_t>(stride_);
  if (buffer.size() >= bytes) return;
  Buffer larger(bytes, memory);
  larger.copy_from(buffer, static_cast<size_t>(length_) * static_cast<size_t>(stride_));
  buffer = std::move(larger);
}

size_t KvCache::bytes() const noexcept {
  size_t total = 0;
  for (const Buffer& buffer : k_) total += buffer.size();
  for (const Buffer& buffer : v_) total += buffer.size();
  return total;
}

std::vector<int32_t> KvCache::next(int64_t n) const {
  std::vector<int32_t> places(static_cast<size_t>(n));
  std::iota(places.begin(), places.end(), static_cast<int32_t>(length_));
  return places;
}

Matrix KvCache::k(int32_t layer, int64_t first, int64_t n) {
  return rows(k_.at(static_cast<size_t>(layer)), first, n);
}

Matrix KvCache::v(int32_t layer, int64_t first, int64_t n) {
  return rows(v_.at(static_cast<size_t>(layer)), first, n);
}

Matrix KvCache::rows(const Buffer& buffer, int64_t first, int64_t n) const {
  if (first < 0 || n < 0 || n > capacity_ || first > capacity_ - n) {
    fail(ErrorCode::kInternal, "[kv cache] rows [%lld, +%lld) of a cache with %lld rows",
         static_cast<long long>(first), static_cast<long long>(n), static_cast<long long>(capacity_));
  }
  return {buffer.data() + first * stride_, dtype_, n, width_, stride_};
}

}  // namespace trimtok
