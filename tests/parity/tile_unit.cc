#include "tile_unit.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace trimtok::parity {

const char* TileUnit::configure(const void* config) {
  uint8_t bytes[64];
  std::memcpy(bytes, config, sizeof(bytes));
  if (bytes[0] == 0) return "ldtilecfg: palette 0, which is what tilerelease is for";
  if (bytes[0] != 1) return "ldtilecfg: there is no such palette";
  if (bytes[1] != 0) return "ldtilecfg: start_row is not 0";
  for (int i = 2; i < 16; ++i) {
    if (bytes[i] != 0) return "ldtilecfg: reserved bytes are not 0";
  }
  for (int t = 0; t < 16; ++t) {
    const int row_bytes = bytes[16 + 2 * t] | bytes[17 + 2 * t] << 8;
    const int rows = bytes[48 + t];
    if (t >= kTiles && (row_bytes != 0 || rows != 0)) return "ldtilecfg: there are only 8 tiles";
    if ((row_bytes == 0) != (rows == 0)) return "ldtilecfg: a tile with rows or bytes only";
    if (row_bytes > kMaxRowBytes || rows > kMaxRows) return "ldtilecfg: a tile beyond 16 rows of 64 bytes";
  }
  for (int t = 0; t < kTiles; ++t) {
    row_bytes_[t] = bytes[16 + 2 * t];
    rows_[t] = bytes[48 + t];
  }
  configured_ = true;
  std::memset(data_, 0, sizeof(data_));
  return nullptr;
}

const char* TileUnit::release() {
  configured_ = false;
  std::memset(rows_, 0, sizeof(rows_));
  std::memset(row_bytes_, 0, sizeof(row_bytes_));
  std::memset(data_, 0, sizeof(data_));
  return nullptr;
}

const char* TileUnit::fault(int tile) const {
  if (!configured_) return "a tile is used while none is configured";
  if (tile < 0 || tile >= kTiles) return "there are only 8 tiles";
  return rows_[tile] == 0 ? "a tile is used that the configuration leaves out" : nullptr;
}

const char* TileUnit::zero(int tile) {
  if (const char* wrong = fault(tile)) return wrong;
  std::memset(data_[tile], 0, sizeof(data_[tile]));
  return nullptr;
}

const char* TileUnit::load(int tile, const void* p, int64_t stride) {
  if (const char* wrong = fault(tile)) return wrong;
  std::memset(data_[tile], 0, sizeof(data_[tile]));
  for (int r = 0; r < rows_[tile]; ++r) {
    std::memcpy(data_[tile][r], static_cast<const char*>(p) + r * stride, row_bytes_[tile]);
  }
  return nullptr;
}

const char* TileUnit::store(int tile, void* p, int64_t stride) const {
  if (const char* wrong = fault(tile)) return wrong;
  for (int r = 0; r < rows_[tile]; ++r) {
    std::memcpy(static_cast<char*>(p) + r * stride, data_[tile][r], row_bytes_[tile]);
  }
  return nullptr;
}

const char* TileUnit::fault_of_product(int sums, int a, int b) const {
  const int tiles[] = {sums, a, b};
  for (const int tile : tiles) {
    if (const char* wrong = fault(tile)) return wrong;
    if (row_bytes_[tile] % 4 != 0) return "a product of tiles whose rows are no whole words";
  }
  if (sums == a || sums == b || a == b) return "a product of a tile with itself";
  if (rows_[sums] != rows_[a]) return "a product with more or fewer rows than the left tile";
  if (row_bytes_[sums] != row_bytes_[b]) return "a product with more or fewer columns than the right tile";
  return row_bytes_[a] / 4 != rows_[b] ? "a product of tiles of different depth" : nullptr;
}

#if defined(__x86_64__)

// Columns side by side, rows of b in turn, which is the order that the manual prescribes for each sum.
namespace {

#define TT_MODEL __attribute__((target("avx512f,avx512vnni"), noinline))

// Denormals count as zeros on both sides, results round to nearest even, and the caller's control register is
// not asked.
class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(0x1f80 | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  uint32_t before_;
};

TT_MODEL void add_bf16(uint8_t* sums, const uint8_t* a, const uint8_t (*b)[64], int words) {
  const __m512i high_half = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  __m512 even = _mm512_setzero_ps();
  __m512 odd = _mm512_setzero_ps();
  for (int k = 0; k < words; ++k) {
    uint32_t pair;
    std::memcpy(&pair, a + 4 * k, sizeof(pair));
    const __m512i x = _mm512_set1_epi32(static_cast<int>(pair));
    const __m512i w = _mm512_loadu_si512(b[k]);
    const __m512 x_even = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, x, 16));
    const __m512 w_even = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, w, 16));
    even = _mm512_fmadd_ps(x_even, w_even, even);
    odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, high_half)),
                          _mm512_castsi512_ps(_mm512_and_si512(w, high_half)), odd);
  }
  const __m512 both = _mm512_add_ps(even, odd);
  _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), both));
}

TT_MODEL void add_int8(uint8_t* sums, const uint8_t* a, const uint8_t (*b)[64], int words) {
  __m512i sum = _mm512_loadu_si512(sums);
  for (int k = 0; k < words; ++k) {
    uint32_t four;
    std::memcpy(&four, a + 4 * k, sizeof(four));
    sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(b[k]), _mm512_set1_epi32(static_cast<int>(four)));
  }
  _mm512_storeu_si512(sums, sum);
}

#undef TT_MODEL

}  // namespace

// Columns beyond a tile's width are zeros in b, and so they stay in the sums.
const char* TileUnit::dot_bf16(int sums, int a, int b) {
  if (const char* wrong = fault_of_product(sums, a, b)) return wrong;
  const FlushDenormals flush;
  for (int m = 0; m < rows_[sums]; ++m) add_bf16(data_[sums][m], data_[a][m], data_[b], row_bytes_[a] / 4);
  return nullptr;
}

const char* TileUnit::dot_int8(int sums, int a, int b) {
  if (const char* wrong = fault_of_product(sums, a, b)) return wrong;
  for (int m = 0; m < rows_[sums]; ++m) add_int8(data_[sums][m], data_[a][m], data_[b], row_bytes_[a] / 4);
  return nullptr;
}

#else

const char* TileUnit::dot_bf16(int, int, int) {
  return "this processor cannot run the model";
}
const char* TileUnit::dot_int8(int, int, int) {
  return "this processor cannot run the model";
}

#endif

}  // namespace trimtok::parity
