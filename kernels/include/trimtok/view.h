// Plain data that crosses the kernel seam: element types, status codes, matrix views.
// No allocation, no exception, no standard-library type: the same header serves C++ and CUDA.
#pragma once

#include <cstddef>
#include <cstdint>

// What an ISA file can see must leave no weak symbol behind at any optimisation level, or the linker may
// hand its AVX-512 copy to baseline callers: everything inline in kernels/include is forced inline.
#if defined(__CUDACC__)
#define TT_INLINE __host__ __device__ __forceinline__
#else
#define TT_INLINE inline __attribute__((always_inline))
#endif

namespace trimtok {

// Values are the GGUF type ids, so a file's id converts by a checked cast (see dtype_info).
enum class Dtype : int32_t {
#define TT_DTYPE(name, id, block_elems, block_bytes, use) k##name = id,
#include "trimtok/dtypes.def"
#undef TT_DTYPE
};

enum class DtypeUse : int32_t { kWeight, kRecognised, kRuntime };

struct DtypeInfo {
  const char* name;     // as written in GGUF documentation: "Q4_K"
  int32_t block_elems;  // elements per block; a row's length is a multiple of it
  int32_t block_bytes;
  DtypeUse use;
};

// nullptr for an id that is not in dtypes.def (unknown or removed from the format).
const DtypeInfo* dtype_info(int32_t gguf_type_id);
inline __attribute__((always_inline)) const DtypeInfo* dtype_info(Dtype t) {
  return dtype_info(static_cast<int32_t>(t));
}

// What a kernel reports. The engine turns anything but kOk into an Error that names the op.
enum class Status : int32_t {
  kOk = 0,
  kBadArgument,    // shapes, strides or scalars that break the op's contract
  kUnsupported,    // a legal argument (a dtype, say) that this table cannot serve
  kUnimplemented,  // the table has no body for this op
  kOutOfMemory,    // scratch could not be had
  kDeviceError,    // the device reported a failure
};

// A non-owning matrix, row-major. `stride` is the distance between rows in bytes (quantised rows are
// whole blocks, so elements cannot be addressed, rows can). data == nullptr means "absent".
struct Matrix {
  void* data = nullptr;
  Dtype dtype = Dtype::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  bool operator==(const Matrix&) const = default;
};

struct ConstMatrix {
  const void* data = nullptr;
  Dtype dtype = Dtype::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  TT_INLINE ConstMatrix() {}  // NOLINT: "= default" would be a weak function at -O0
  TT_INLINE ConstMatrix(const void* data_in, Dtype dtype_in, int64_t rows_in, int64_t cols_in,
                        int64_t stride_in)
      : data(data_in), dtype(dtype_in), rows(rows_in), cols(cols_in), stride(stride_in) {}
  TT_INLINE ConstMatrix(const Matrix& m)  // NOLINT: a view of mutable data is a view of const data
      : data(m.data), dtype(m.dtype), rows(m.rows), cols(m.cols), stride(m.stride) {}

  bool operator==(const ConstMatrix&) const = default;
};

// Bytes of one packed row of `cols` elements; -1 when cols is not a whole number of blocks.
int64_t row_bytes(Dtype dtype, int64_t cols);

}  // namespace trimtok
