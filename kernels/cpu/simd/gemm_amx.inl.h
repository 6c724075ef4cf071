// The micro-kernels of gemm.inl.h on the tile unit. A strip, [word][output], is what the right operand of a
// tile product wants as it is; the left one wants rows of words, so panels of x are not transposed: they lie
// as tiles of 16 rows by 16 words, [word / 16][row][word % 16].

constexpr int kTileRows = 16;
constexpr int kTileWords = 16;
constexpr int kPanelStride = kTileWords * sizeof(float);
constexpr int kStripStride = kNr * sizeof(float);
// From a tile to its neighbour: the next 16 rows of a panel, 16 outputs, 16 rows of sums.
constexpr int kNextRows = kTileRows * kPanelStride;
constexpr int kNextOutputs = kTileWords * sizeof(float);
constexpr int kNextSums = kTileRows * kStripStride;
// So many rows share a strip: products are so quick that unpacking would otherwise weigh too much. 1024 rows
// of 128 outputs and their panels of one K block fill half of the 2 MiB that each core has.
constexpr int64_t kAmxTaskRows = 1024;
static_assert(kNr == 2 * kTileWords);

// Rows up to a multiple of 16 become zeros.
void pack_tiles(const float* words, int64_t rows, int64_t n_words, float* slot) {
  const int64_t padded = round_up(rows, kTileRows);
  for (int64_t k = 0; k < n_words; k += kTileWords) {
    for (int64_t r = 0; r < padded; ++r, slot += kTileWords) {
      vstore(slot, r < rows ? vload(words + r * kRowWords + k) : vzero());
    }
  }
}

// ---- bf16: 32 rows by 32 outputs, in four tiles. ----

constexpr int kAmxBf16Rows = 2 * kTileRows;
static_assert(kAmxBf16Rows <= kMostPanelRows);

// Tiles 0-3 are sums, [16 rows][16 outputs] each, 4 and 5 rows of x, 6 and 7 outputs.
constexpr TileConfig kBf16Tiles = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

template <int kRowTiles>
void multiply_bf16_tiles(const float* panel, const float* strip, int64_t kc, float* sums, bool first) {
  if (first) {
    tile_zero<0>();
    tile_zero<1>();
    if (kRowTiles == 2) tile_zero<2>();
    if (kRowTiles == 2) tile_zero<3>();
  } else {
    tile_load<0>(sums, kStripStride);
    tile_load<1, kNextOutputs>(sums, kStripStride);
    if (kRowTiles == 2) tile_load<2, kNextSums>(sums, kStripStride);
    if (kRowTiles == 2) tile_load<3, kNextSums + kNextOutputs>(sums, kStripStride);
  }
  for (int64_t k = 0; k < kc; k += 2 * kTileWords) {  // words up to the next multiple of 16 are zeros
    tile_load<4>(panel, kPanelStride);
    tile_load<6>(strip, kStripStride);
    tile_load<7, kNextOutputs>(strip, kStripStride);
    tile_dot_bf16<0, 4, 6>();
    tile_dot_bf16<1, 4, 7>();
    if constexpr (kRowTiles == 2) {
      tile_load<5, kNextRows>(panel, kPanelStride);
      tile_dot_bf16<2, 5, 6>();
      tile_dot_bf16<3, 5, 7>();
    }
    panel += kRowTiles * kTileRows * kTileWords;
    strip += kTileWords * kNr;
  }
  tile_store<0>(sums, kStripStride);
  tile_store<1, kNextOutputs>(sums, kStripStride);
  if (kRowTiles == 2) tile_store<2, kNextSums>(sums, kStripStride);
  if (kRowTiles == 2) tile_store<3, kNextSums + kNextOutputs>(sums, kStripStride);
}

constexpr MultiplyFn kMultiplyBf16Tiles[] = {multiply_bf16_tiles<1>, multiply_bf16_tiles<2>};

void bf16_tiles_task(void* arg, int64_t task, int32_t thread) {
  tiles_configure(kBf16Tiles);
  gemm_task(arg, task, thread);
  tiles_release();
}

GemmKernel bf16_tiles_kernel(Dtype dtype) {
  return {kMultiplyBf16Tiles, kAmxBf16Rows,    kBf16Words,       kBf16Words,
          narrow_row,         decode_bf16_row, decode_fn(dtype), 0,
          kTileRows,          kAmxTaskRows,    pack_tiles,       bf16_tiles_task};
}

// ---- int8: 16 rows of two digits by 32 outputs. Each group of weights has its scale, so that a product is
// only as deep as a group: 32 or 16 bytes of the 64 that a tile could hold. ----

// Tiles 0 and 1 are sums of high digits, 2 and 3 of low ones; 4 and 5 the digits, 6 and 7 outputs.
template <int kGroup>
constexpr TileConfig kInt8Tiles = {
    1, 0, {}, {64, 64, 64, 64, kGroup, kGroup, 64, 64}, {16, 16, 16, 16, 16, 16, kGroup / 4, kGroup / 4}};

// Word `word` of the first row of a panel.
TT_INLINE const float* tile_word(const float* panel, int64_t word) {
  return panel + word / kTileWords * kTileRows * kTileWords + word % kTileWords;
}

// dots: the products of group g with the high digits of 16 rows, then with their low ones.
template <int kGroup>
TT_INLINE void multiply_group(const float* panel, const float* strip, int64_t g,
                              int32_t (&dots)[2][kTileRows][kNr]) {
  constexpr int kLowDigits = kCodeWords / kTileWords * kNextRows;
  const int64_t word = g * (kGroup / 4);
  const float* high = tile_word(panel, word);
  const float* codes = strip + word * kNr;
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  tile_load<4>(high, kPanelStride);
  tile_load<6>(codes, kStripStride);
  tile_load<7, kNextOutputs>(codes, kStripStride);
  tile_load<5, kLowDigits>(high, kPanelStride);
  tile_dot_int8<0, 4, 6>();
  tile_dot_int8<1, 4, 7>();
  tile_dot_int8<2, 5, 6>();
  tile_dot_int8<3, 5, 7>();
  tile_store<0>(dots, kStripStride);
  tile_store<1, kNextOutputs>(dots, kStripStride);
  tile_store<2, kNextSums>(dots, kStripStride);
  tile_store<3, kNextSums + kNextOutputs>(dots, kStripStride);
}

template <int kGroup, bool kHasMin>
void multiply_int8_tiles(const float* panel, const float* strip, int64_t kc, float* sums, bool first) {
  constexpr int kGroups = kKc / kGroup;
  const float* scales = strip + kCodeWords * kNr;
  const float* mins = scales + kGroups * kNr;
  alignas(64) int32_t dots[2][kTileRows][kNr];
  for (int64_t g = 0; g < kc / kGroup; ++g) {
    multiply_group<kGroup>(panel, strip, g, dots);
    const float* x_scales = tile_word(panel, kXScales + g * kGroup / 32);
    const float* x_sums = tile_word(panel, kXSums + g);
    const bool fresh = first && g == 0;
    for (int r = 0; r < kTileRows; ++r) {
      int32_t offset = 0;
      if (!kHasMin) memcpy(&offset, x_sums + r * kTileWords, sizeof(offset));
      const Vf x_scale = vset1(x_scales[r * kTileWords]);
      TT_UNROLL
      for (int v = 0; v < kNv; ++v) {
        const int i = v * kLanes;
        __m512i dot = _mm512_load_si512(dots[1][r] + i);
        dot = _mm512_add_epi32(dot, _mm512_maskz_slli_epi32(0xffff, _mm512_load_si512(dots[0][r] + i), 7));
        if (!kHasMin) dot = _mm512_add_epi32(dot, _mm512_set1_epi32(offset));
        Vf acc = fresh ? vzero() : vload(sums + r * kNr + i);
        acc = vfma(_mm512_maskz_cvtepi32_ps(0xffff, dot), vmul(vload(scales + g * kNr + i), x_scale), acc);
        if (kHasMin) acc = vfma(vload(mins + g * kNr + i), vset1(x_sums[r * kTileWords]), acc);
        vstore(sums + r * kNr + i, acc);
      }
    }
  }
}

template <int kGroup>
void int8_tiles_task(void* arg, int64_t task, int32_t thread) {
  tiles_configure(kInt8Tiles<kGroup>);
  gemm_task(arg, task, thread);
  tiles_release();
}

template <int kGroup, bool kHasMin>
constexpr MultiplyFn kMultiplyInt8Tiles[] = {multiply_int8_tiles<kGroup, kHasMin>};

template <class Q>
constexpr GemmKernel kInt8TilesKernel = {kMultiplyInt8Tiles<Q::kGroup, Bytes<Q>::kHasMin>,
                                         kTileRows,
                                         kInt8XWords<Q>,
                                         kInt8WWords<Q>,
                                         round_words<Q::kGroup, Bytes<Q>::kHasMin>,
                                         unpack_words<Q>,
                                         nullptr,
                                         kCodeOffset<Q>,
                                         kTileRows,
                                         kAmxTaskRows,
                                         pack_tiles,
                                         int8_tiles_task<Q::kGroup>};

// Without a kernel where w is not of a block format.
GemmKernel int8_tiles_kernel(Dtype dtype) {
  switch (dtype) {
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return kInt8TilesKernel<name>;
    TT_BLOCK_TYPES(TT_CASE)
#undef TT_CASE
    default:
      return {};
  }
}
