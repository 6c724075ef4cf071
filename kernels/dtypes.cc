#include <limits>

#include "trimtok/view.h"

namespace trimtok {

const DtypeInfo* dtype_info(int32_t gguf_type_id) {
  switch (gguf_type_id) {
#define TT_DTYPE(name, id, block_elems, block_bytes, use)                             \
  case id: {                                                                          \
    static constexpr DtypeInfo kInfo{#name, block_elems, block_bytes, DtypeUse::use}; \
    return &kInfo;                                                                    \
  }
#include "trimtok/dtypes.def"
#undef TT_DTYPE
    default:
      return nullptr;
  }
}

int64_t row_bytes(Dtype dtype, int64_t cols) {
  const DtypeInfo* info = dtype_info(dtype);
  if (info == nullptr || cols < 0 || cols % info->block_elems != 0) return -1;
  const int64_t blocks = cols / info->block_elems;
  if (blocks > std::numeric_limits<int64_t>::max() / info->block_bytes) return -1;
  return blocks * info->block_bytes;
}

}  // namespace trimtok
