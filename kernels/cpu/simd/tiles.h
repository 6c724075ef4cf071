// The verbs of the tile unit (AMX): eight registers of up to 16 rows of 64 bytes each. Inline assembly,
// because intrinsics cannot be trusted everywhere: GCC 12's _tile_loadconfig declares 8 of the 64 bytes that
// it reads, and its _tile_loadd no memory at all, so that stores before them may be dropped or moved behind.

struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

// Tiles belong to a thread, and a thread may be the application's: whoever configures releases before a task
// returns.
TT_INLINE void tiles_configure(const TileConfig& config) {
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
}
TT_INLINE void tiles_release() {
  __asm__ volatile("tilerelease" : : : "memory");
}

template <int kTile>
TT_INLINE void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "n"(kTile));
}
// Rows of a tile lie `stride` bytes apart, the first one kOffset bytes behind p: one register serves several
// tiles.
template <int kTile, int kOffset = 0>
TT_INLINE void tile_load(const void* p, int64_t stride) {
  __asm__ volatile("tileloadd %c3(%0,%1,1), %%tmm%c2"
                   :
                   : "r"(p), "r"(stride), "n"(kTile), "n"(kOffset)
                   : "memory");
}
template <int kTile, int kOffset = 0>
TT_INLINE void tile_store(void* p, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, %c3(%0,%1,1)"
                   :
                   : "r"(p), "r"(stride), "n"(kTile), "n"(kOffset)
                   : "memory");
}

// sums[m][n] += a[m][k] . b[k][n] over words k: two bf16 each, into f32.
template <int kSums, int kA, int kB>
TT_INLINE void tile_dot_bf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "n"(kSums), "n"(kA), "n"(kB));
}
// Four signed bytes of a with four unsigned ones of b, into int32.
template <int kSums, int kA, int kB>
TT_INLINE void tile_dot_int8() {
  __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "n"(kSums), "n"(kA), "n"(kB));
}
