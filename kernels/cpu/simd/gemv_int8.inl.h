// Few rows of x (decode steps) against block formats, rounded to int8: dot products of bytes, straight from
// the stored blocks. x is rounded once per matmul and laid out in the order in which its weights unpack.

struct Int8Job;
struct Int8Dot;
using Int8DotFn = void (*)(const Int8Dot& dot, float* out);

// By number of rows of x - 1: a dot product of one row of w, and one of `rows` rows at once.
struct Int8Columns {
  Int8DotFn one;
  Int8DotFn many;
  int rows;
};

struct Int8Kernel {
  Int8Columns columns[kMaxCols];
  Order order;
  int group;         // elements per scale
  float sum_factor;  // of the sums of x: 1 where they meet mins, minus the offset of the codes, or 0
};

struct Int8Job {
  const MatmulArgs* args;
  const Int8Kernel* kernel;
  int8_t* x;      // [T][2][x_stride]: high and low digits in the kernel's order, zero-padded
  float* scales;  // [T][group_stride] of x, once per group of w's type
  float* sums;    // [T][group_stride]: scale times sum of x times sum_factor
  int64_t x_stride;
  int64_t group_stride;
  int64_t rows_per_task;
};

// One call of a dot product: rows of w with some rows of x.
struct Int8Dot {
  const void* w;
  int64_t w_stride;  // bytes between rows
  int64_t n;
  const int8_t* x;
  const float* scales;
  const float* sums;
  int64_t x_stride;
  int64_t group_stride;
};

// Rows of w that are multiplied side by side: they share the loads of x, and their sums are chains of their
// own, so that a row's result does not depend on its neighbours.
constexpr int kDotRows = 2;
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool kFewRegisters = true;  // sixteen: not enough for two rows of 16 scales and 16 mins each
#else
constexpr bool kFewRegisters = false;
#endif
template <class Q, int kCols>
constexpr int kRowsFor = kCols >= kDotRows || (kFewRegisters && Q::kGroup == 16 && Q::kHasMin) ? 1 : kDotRows;
// Bytes: the rows that come next are asked for while these are read; both, and x, must fit L1.
constexpr int64_t kMostAhead = 8192;

// ---- Products of bytes. ----

#if defined(__AVX512F__)

// The groups that the lanes of vector i belong to.
struct LaneGroups {
  alignas(64) int32_t lane[kVectors][16];
};
template <class Q>
constexpr LaneGroups make_lane_groups() {
  LaneGroups g = {};
  for (int i = 0; i < kVectors; ++i) {
    for (int l = 0; l < 16; ++l) {
      g.lane[i][l] = natural_piece<Bytes<Q>::kOrder>(4 * i + l / 4) * 16 / Q::kGroup;
    }
  }
  return g;
}
template <class Q>
constexpr LaneGroups kLaneGroups = make_lane_groups<Q>();

// Where the two digits of some elements of x lie.
struct Digits {
  const int8_t* high;
  const int8_t* low;
};
// Sums of the products of four bytes of w with both digits.
TT_INLINE __m512i dot_digits(Vb w, Digits x) {
  const __m512i high = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, vb_load(x.high));
  return _mm512_dpbusd_epi32(_mm512_maskz_slli_epi32(0xffff, high, 7), w, vb_load(x.low));
}
// The same of two vectors whose groups lie in the same lanes.
TT_INLINE __m512i dot_digits(Vb w, Digits x, Vb w_next) {
  __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, vb_load(x.high));
  sum = _mm512_maskz_slli_epi32(0xffff, _mm512_dpbusd_epi32(sum, w_next, vb_load(x.high + 64)), 7);
  return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, w, vb_load(x.low)), w_next, vb_load(x.low + 64));
}
// acc + the sums of vector i times the scales of their groups.
template <class Q>
TT_INLINE Vf add_scaled(__m512i dots, int i, Vf products, Vf acc) {
  const __m512i lanes = _mm512_load_si512(kLaneGroups<Q>.lane[i]);
  const Vf scale = _mm512_maskz_permutexvar_ps(0xffff, lanes, products);
  return vfma(_mm512_maskz_cvtepi32_ps(0xffff, dots), scale, acc);
}

// acc[r][c] += a super-block of row r times its x.
template <class Q, int kRows, int kCols>
TT_INLINE void add_super(const typename Q::Block* const (&blocks)[kRows], const Scales (&s)[kRows],
                         const Int8Dot& dot, int64_t b, Vf (&acc)[kRows][kCols]) {
  constexpr int kGroups = kSuper / Q::kGroup;
  Vf products[kRows][kCols];
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TT_UNROLL
    for (int c = 0; c < kCols; ++c) {
      const float* scales = dot.scales + c * dot.group_stride + b * kGroups;
      if constexpr (kGroups == 8) {
        products[r][c] = _mm512_castps256_ps512(_mm256_mul_ps(v8_load(s[r].scale), v8_load(scales)));
      } else {
        products[r][c] = vmul(vload(s[r].scale), vload(scales));
      }
    }
  }
  TT_UNROLL
  for (int i = 0; i < kVectors; i += 2) {
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vb w = Bytes<Q>::load(blocks[r], i);
      const Vb w_next = Bytes<Q>::load(blocks[r], i + 1);
      TT_UNROLL
      for (int c = 0; c < kCols; ++c) {
        const int8_t* high = dot.x + 2 * c * dot.x_stride + b * kSuper + 64 * i;
        const Digits x = {high, high + dot.x_stride};
        if constexpr (Bytes<Q>::kOrder == Order::kQuads) {
          acc[r][c] = add_scaled<Q>(dot_digits(w, x, w_next), i, products[r][c], acc[r][c]);
        } else {
          const Digits x_next = {x.high + 64, x.low + 64};
          acc[r][c] = add_scaled<Q>(dot_digits(w, x), i, products[r][c], acc[r][c]);
          acc[r][c] = add_scaled<Q>(dot_digits(w_next, x_next), i + 1, products[r][c], acc[r][c]);
        }
      }
    }
  }
}

#else

// Sums of neighbouring products, four (two vectors of two on NEON) to a lane.
#if defined(__AVX2__)
struct Dots {
  __m256i v;
};
template <bool kFull>
TT_INLINE Dots dot_bytes(Vb w, Vb x) {
#if defined(TT_AVX_VNNI)
  const Vb unsigned_w = kFull ? _mm256_abs_epi8(w) : w;
  return {vb_dot(_mm256_setzero_si256(), unsigned_w, kFull ? _mm256_sign_epi8(x, w) : x)};
#else
  // Pairs of products must fit 16 bits: 2 x 63 x 127 does, 2 x 255 x 127 does not, 2 x 128 x 127 does again.
  const __m256i pairs =
      kFull ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)) : _mm256_maddubs_epi16(w, x);
  return {_mm256_madd_epi16(pairs, _mm256_set1_epi16(1))};
#endif
}
TT_INLINE Dots join_digits(Dots high, Dots low) {
  return {_mm256_add_epi32(_mm256_slli_epi32(high.v, 7), low.v)};
}
// acc + the lanes of one group, or of two, times their scales.
template <int kGroup>
TT_INLINE Vf add_scaled(Dots d, const float* scales, Vf acc) {
  const Vf scale =
      kGroup == 32 ? vset1(scales[0]) : _mm256_insertf128_ps(vset1(scales[0]), _mm_set1_ps(scales[1]), 1);
  return vfma(_mm256_cvtepi32_ps(d.v), scale, acc);
}
#else
struct Dots {
  int32x4_t a;
  int32x4_t b;
};
TT_INLINE int32x4_t dot_16_bytes(uint8x16_t w, uint8x16_t x) {
  const int8x16_t ws = vreinterpretq_s8_u8(w);
  const int8x16_t xs = vreinterpretq_s8_u8(x);
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(vdupq_n_s32(0), ws, xs);
#else
  // |w| <= 128 and |x| <= 127: two products fit 16 bits.
  const int16x8_t low = vmull_s8(vget_low_s8(ws), vget_low_s8(xs));
  return vpaddlq_s16(vmlal_s8(low, vget_high_s8(ws), vget_high_s8(xs)));
#endif
}
template <bool kFull>
TT_INLINE Dots dot_bytes(Vb w, Vb x) {
  return {dot_16_bytes(w.a, x.a), dot_16_bytes(w.b, x.b)};
}
TT_INLINE Dots join_digits(Dots high, Dots low) {
  return {vaddq_s32(vshlq_n_s32(high.a, 7), low.a), vaddq_s32(vshlq_n_s32(high.b, 7), low.b)};
}
template <int kGroup>
TT_INLINE Vf add_scaled(Dots d, const float* scales, Vf acc) {
  if constexpr (kGroup == 32) return vfma(vcvtq_f32_s32(vaddq_s32(d.a, d.b)), vset1(scales[0]), acc);
  return vfma(vcvtq_f32_s32(d.b), vset1(scales[1]), vfma(vcvtq_f32_s32(d.a), vset1(scales[0]), acc));
}
#endif

template <class Q, int kRows, int kCols>
TT_INLINE void add_super(const typename Q::Block* const (&blocks)[kRows], const Scales (&s)[kRows],
                         const Int8Dot& dot, int64_t b, Vf (&acc)[kRows][kCols]) {
  constexpr int kGroups = kSuper / Q::kGroup;
  alignas(64) float products[kRows][kCols][16];
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TT_UNROLL
    for (int c = 0; c < kCols; ++c) {
      const float* scales = dot.scales + c * dot.group_stride + b * kGroups;
      TT_UNROLL
      for (int g = 0; g < kGroups; g += kLanes) {
        vstore(products[r][c] + g, vmul(vload(s[r].scale + g), vload(scales + g)));
      }
      spill(products[r][c]);
    }
  }
  TT_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    TT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vb w = Bytes<Q>::load(blocks[r], i);
      TT_UNROLL
      for (int c = 0; c < kCols; ++c) {
        constexpr bool kFull = Bytes<Q>::kFull;
        const int8_t* x = dot.x + 2 * c * dot.x_stride + b * kSuper + 32 * i;
        const Dots dots =
            join_digits(dot_bytes<kFull>(w, vb_load(x)), dot_bytes<kFull>(w, vb_load(x + dot.x_stride)));
        acc[r][c] = add_scaled<Q::kGroup>(dots, products[r][c] + i * 32 / Q::kGroup, acc[r][c]);
      }
    }
  }
}

#endif

// out[r * kMaxCols + c] = (row r of w) . x[c].
template <class Q, int kRows, int kCols>
void dot_int8(const Int8Dot& dot, float* out) {
  using B = Bytes<Q>;
  constexpr int kGroups = kSuper / Q::kGroup;
  constexpr bool kSums = B::kHasMin || B::kOffset != 0;
  constexpr int64_t kBytes = kBlocks<Q> * static_cast<int64_t>(sizeof(typename Q::Block));
  Vf acc[kRows][kCols];
  V8 mins[kRows][kCols];
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TT_UNROLL
    for (int c = 0; c < kCols; ++c) {
      acc[r][c] = vzero();
      mins[r][c] = v8_zero();
    }
  }
  // Rows side by side are mostly neighbours: the memory behind them is read ahead in its own order.
  const char* ahead = static_cast<const char*>(dot.w) + (kRows == 1 ? kAhead : kRows * dot.w_stride);
  for_each_super<Q, kRows>(dot.w, dot.w_stride, dot.n,
                           [&](const typename Q::Block* const(&blocks)[kRows], int64_t b) TT_LAMBDA_INLINE {
                             Scales s[kRows];
                             TT_UNROLL
                             for (int r = 0; r < kRows; ++r) {
                               TT_UNROLL
                               for (int64_t i = 0; i < kBytes; i += 64) prefetch(ahead, i);
                               ahead += kBytes;
                               Q::scales(blocks[r], s[r]);
                             }
                             add_super<Q, kRows, kCols>(blocks, s, dot, b, acc);
                             if constexpr (!kSums) return;
                             TT_UNROLL
                             for (int r = 0; r < kRows; ++r) {
                               TT_UNROLL
                               for (int c = 0; c < kCols; ++c) {
                                 const float* sums = dot.sums + c * dot.group_stride + b * kGroups;
                                 TT_UNROLL
                                 for (int h = 0; h < kGroups / 8; ++h) {
                                   const V8 factor = B::kHasMin ? s[r].min[h] : v8_load(s[r].scale + 8 * h);
                                   mins[r][c] = v8_fma(factor, v8_load(sums + 8 * h), mins[r][c]);
                                 }
                               }
                             }
                           });
  TT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TT_UNROLL
    for (int c = 0; c < kCols; ++c) {
      out[r * kMaxCols + c] = vreduce_add(acc[r][c]) + (kSums ? v8_sum(mins[r][c]) : 0.0f);
    }
  }
}

template <class Q, int kCols>
constexpr Int8Columns kInt8Columns = {dot_int8<Q, 1, kCols>, dot_int8<Q, kRowsFor<Q, kCols>, kCols>,
                                      kRowsFor<Q, kCols>};
template <class Q>
constexpr Int8Kernel kInt8Kernel = {
    {kInt8Columns<Q, 1>, kInt8Columns<Q, 2>, kInt8Columns<Q, 3>, kInt8Columns<Q, 4>},
    Bytes<Q>::kOrder,
    Q::kGroup,
    Bytes<Q>::kHasMin ? 1.0f : -static_cast<float>(Bytes<Q>::kOffset)};

// nullptr where w is not of a block format.
const Int8Kernel* int8_kernel(Dtype dtype) {
  switch (dtype) {
#define TT_CASE(name)  \
  case Dtype::k##name: \
    return &kInt8Kernel<name>;
    TT_BLOCK_TYPES(TT_CASE)
#undef TT_CASE
    default:
      return nullptr;
  }
}

// ---- Rounding x. ----

TT_INLINE int natural_piece_of(Order order, int j) {
  return order == Order::kNatural   ? natural_piece<Order::kNatural>(j)
         : order == Order::kEvenOdd ? natural_piece<Order::kEvenOdd>(j)
                                    : natural_piece<Order::kQuads>(j);
}

void round_row(void* arg, int64_t t, int32_t) {
  const auto* job = static_cast<const Int8Job*>(arg);
  const MatmulArgs& a = *job->args;
  const float* x = f32_row(a.x, t);
  int8_t* high = job->x + 2 * t * job->x_stride;
  int8_t* low = high + job->x_stride;
  float* scales = job->scales + t * job->group_stride;
  float* sums = job->sums + t * job->group_stride;
  const int group = job->kernel->group;
  const bool normed = a.norm.kind != RowNorm::Kind::kNone;
  const RowMoments moments = normed ? row_moments(a.norm, x, a.x.cols) : RowMoments{0.0f, 0.0f, 0.0f};
  for (int64_t k = 0; k < job->x_stride; k += kSuper) {
    alignas(64) float piece[kSuper];
    if (normed) norm_piece(a.norm, moments, x, k, imin(kSuper, a.x.cols - k), piece);
    const float* elements = normed ? piece : x + k;
    int8_t digits[2][kSuper] = {};
    for (int64_t b = 0; b < kSuper; b += 32) {
      const float scale = k + b < a.x.cols ? round_block(elements + b, digits[0] + b, digits[1] + b) : 0.0f;
      for (int64_t g = b; g < b + 32; g += group) {
        const auto sum = static_cast<float>(sum_of(digits[0] + g, digits[1] + g, group));
        scales[(k + g) / group] = scale;
        sums[(k + g) / group] = scale * job->kernel->sum_factor * sum;
      }
    }
    for (int j = 0; j < kSuper / 16; ++j) {
      const int from = 16 * natural_piece_of(job->kernel->order, j);
      memcpy(high + k + 16 * j, digits[0] + from, 16);
      memcpy(low + k + 16 * j, digits[1] + from, 16);
    }
  }
}

// ---- The op. ----

void gemv_int8_task(void* arg, int64_t task, int32_t) {
  const auto* job = static_cast<const Int8Job*>(arg);
  const MatmulArgs& a = *job->args;
  const int64_t end = imin((task + 1) * job->rows_per_task, a.w.rows);
  const int64_t n_passes = ceil_div(a.x.rows, kMaxCols);
  for (int64_t n = task * job->rows_per_task; n < end; n += kRowsAtOnce) {
    const int64_t rows = imin(kRowsAtOnce, end - n);
    for (int64_t pass = 0; pass < n_passes; ++pass) {
      const int64_t col = a.x.rows * pass / n_passes;
      const int64_t cols = a.x.rows * (pass + 1) / n_passes - col;
      const Int8Columns& kernel = job->kernel->columns[cols - 1];
      alignas(64) float sums[kMaxCols][kRowsAtOnce];
      for (int64_t r = 0; r < rows;) {
        Int8Dot dot;
        dot.w = static_cast<const char*>(a.w.data) + (n + r) * a.w.stride;
        dot.w_stride = a.w.stride;
        dot.n = a.w.cols;
        dot.x = job->x + 2 * col * job->x_stride;
        dot.scales = job->scales + col * job->group_stride;
        dot.sums = job->sums + col * job->group_stride;
        dot.x_stride = job->x_stride;
        dot.group_stride = job->group_stride;
        const bool whole = rows - r >= kernel.rows && kernel.rows * a.w.stride <= kMostAhead;
        const int64_t taken = whole ? kernel.rows : 1;
        float dots[kDotRows][kMaxCols];
        (whole ? kernel.many : kernel.one)(dot, dots[0]);
        for (int64_t i = 0; i < taken; ++i, ++r) {
          for (int64_t c = 0; c < cols; ++c) sums[c][r] = dots[i][c];
        }
      }
      for (int64_t c = 0; c < cols; ++c) finish_row(a, col + c, n, sums[c], rows);
    }
  }
}

Status gemv_int8(const ExecContext& ctx, const MatmulArgs& a) {
  Int8Job job;
  job.args = &a;
  job.kernel = int8_kernel(a.w.dtype);
  job.x_stride = round_up(a.x.cols, kSuper);
  job.group_stride = job.x_stride / job.kernel->group;
  const int64_t floats = a.x.rows * job.group_stride;
  const int64_t bytes = 2 * a.x.rows * job.x_stride + 2 * floats * static_cast<int64_t>(sizeof(float));
  job.x = static_cast<int8_t*>(get_scratch(ctx, static_cast<size_t>(bytes)));
  if (job.x == nullptr) return Status::kOutOfMemory;
  job.scales = reinterpret_cast<float*>(job.x + 2 * a.x.rows * job.x_stride);
  job.sums = job.scales + floats;
  if (a.x.rows == 1) {
    round_row(&job, 0, 0);
  } else {
    run_tasks(ctx, a.x.rows, round_row, &job);
  }
  job.rows_per_task = gemv_rows_per_task(ctx, a);
  run_tasks(ctx, ceil_div(a.w.rows, job.rows_per_task), gemv_int8_task, &job);
  return Status::kOk;
}
