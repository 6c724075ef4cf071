// Few rows of x (decode steps) against block formats, rounded to int8: dot products of bytes, straight from
// the stored blocks. x is rounded once per matmul and laid out in the order in which its weights unpack.

struct Int8Job;
struct Int8Dot;
using Int8DotFn = void (*)(const Int8Dot& dot, float* out);

struct Int8Kernel {
  Int8DotFn dot[kMaxCols];  // by number of rows of x - 1
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

// One call of a dot product: a row of w with some rows of x.
struct Int8Dot {
  const void* w;
  int64_t n;
  const int8_t* x;
  const float* scales;
  const float* sums;
  int64_t x_stride;
  int64_t group_stride;
};

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

// acc[c] += a super-block of weights times its x.
template <class Q, int kCols>
TT_INLINE void add_super(const typename Q::Block* blocks, const Scales& s, const Int8Dot& dot, int64_t b,
                         Vf (&acc)[kCols]) {
  constexpr int kGroups = kSuper / Q::kGroup;
  Vf products[kCols];
  TT_UNROLL
  for (int c = 0; c < kCols; ++c) {
    const float* scales = dot.scales + c * dot.group_stride + b * kGroups;
    if constexpr (kGroups == 8) {
      products[c] = _mm512_castps256_ps512(_mm256_mul_ps(v8_load(s.scale), v8_load(scales)));
    } else {
      products[c] = vmul(vload(s.scale), vload(scales));
    }
  }
  __m512i high[kCols];
  __m512i low[kCols];
  TT_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const Vb w = Bytes<Q>::load(blocks, i);
    const __m512i lanes = _mm512_load_si512(kLaneGroups<Q>.lane[i]);
    // The two vectors of a quad have the same groups in the same lanes.
    const bool second = Bytes<Q>::kOrder == Order::kQuads && i % 2 == 1;
    const bool last = Bytes<Q>::kOrder != Order::kQuads || i % 2 == 1;
    TT_UNROLL
    for (int c = 0; c < kCols; ++c) {
      const int8_t* x = dot.x + 2 * c * dot.x_stride + b * kSuper + 64 * i;
      const __m512i zero = _mm512_setzero_si512();
      high[c] = _mm512_dpbusd_epi32(second ? high[c] : zero, w, vb_load(x));
      low[c] = _mm512_dpbusd_epi32(second ? low[c] : zero, w, vb_load(x + dot.x_stride));
      if (!last) continue;
      const Vf scale = _mm512_maskz_permutexvar_ps(0xffff, lanes, products[c]);
      const __m512i dots = _mm512_add_epi32(_mm512_maskz_slli_epi32(0xffff, high[c], 7), low[c]);
      acc[c] = vfma(_mm512_maskz_cvtepi32_ps(0xffff, dots), scale, acc[c]);
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
  // Pairs of products must fit 16 bits: 2 x 63 x 127 does, 2 x 255 x 127 does not, 2 x 128 x 127 does again.
  const __m256i pairs =
      kFull ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)) : _mm256_maddubs_epi16(w, x);
  return {_mm256_madd_epi16(pairs, _mm256_set1_epi16(1))};
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

template <class Q, int kCols>
TT_INLINE void add_super(const typename Q::Block* blocks, const Scales& s, const Int8Dot& dot, int64_t b,
                         Vf (&acc)[kCols]) {
  constexpr int kGroups = kSuper / Q::kGroup;
  alignas(64) float products[kCols][16];
  TT_UNROLL
  for (int c = 0; c < kCols; ++c) {
    const float* scales = dot.scales + c * dot.group_stride + b * kGroups;
    TT_UNROLL
    for (int g = 0; g < kGroups; g += kLanes) {
      vstore(products[c] + g, vmul(vload(s.scale + g), vload(scales + g)));
    }
    spill(products[c]);
  }
  TT_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const Vb w = Bytes<Q>::load(blocks, i);
    TT_UNROLL
    for (int c = 0; c < kCols; ++c) {
      constexpr bool kFull = Bytes<Q>::kFull;
      const int8_t* x = dot.x + 2 * c * dot.x_stride + b * kSuper + 32 * i;
      const Dots dots =
          join_digits(dot_bytes<kFull>(w, vb_load(x)), dot_bytes<kFull>(w, vb_load(x + dot.x_stride)));
      acc[c] = add_scaled<Q::kGroup>(dots, products[c] + i * 32 / Q::kGroup, acc[c]);
    }
  }
}

#endif

// out[c] = w . x[c].
template <class Q, int kCols>
void dot_int8(const Int8Dot& dot, float* out) {
  using B = Bytes<Q>;
  constexpr int kGroups = kSuper / Q::kGroup;
  Vf acc[kCols];
  V8 mins[kCols];
  TT_UNROLL
  for (int c = 0; c < kCols; ++c) {
    acc[c] = vzero();
    mins[c] = v8_zero();
  }
  for_each_super<Q>(dot.w, dot.n, [&](const typename Q::Block* blocks, int64_t b) TT_LAMBDA_INLINE {
    TT_UNROLL
    for (int64_t i = 0; i < kBlocks<Q> * static_cast<int64_t>(sizeof(typename Q::Block)); i += 64) {
      prefetch(blocks, kAhead + i);
    }
    Scales s;
    Q::scales(blocks, s);
    add_super<Q, kCols>(blocks, s, dot, b, acc);
    if constexpr (B::kHasMin || B::kOffset != 0) {
      TT_UNROLL
      for (int c = 0; c < kCols; ++c) {
        const float* sums = dot.sums + c * dot.group_stride + b * kGroups;
        TT_UNROLL
        for (int h = 0; h < kGroups / 8; ++h) {
          const V8 factor = B::kHasMin ? s.min[h] : v8_load(s.scale + 8 * h);
          mins[c] = v8_fma(factor, v8_load(sums + 8 * h), mins[c]);
        }
      }
    }
  });
  TT_UNROLL
  for (int c = 0; c < kCols; ++c) {
    out[c] = vreduce_add(acc[c]) + (B::kHasMin || B::kOffset != 0 ? v8_sum(mins[c]) : 0.0f);
  }
}

template <class Q>
constexpr Int8Kernel kInt8Kernel = {{dot_int8<Q, 1>, dot_int8<Q, 2>, dot_int8<Q, 3>, dot_int8<Q, 4>},
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
  for (int64_t k = 0; k < job->x_stride; k += kSuper) {
    int8_t digits[2][kSuper] = {};
    for (int64_t b = 0; b < kSuper; b += 32) {
      const float scale = k + b < a.x.cols ? round_block(x + k + b, digits[0] + b, digits[1] + b) : 0.0f;
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
      alignas(64) float sums[kMaxCols][kRowsAtOnce];
      for (int64_t r = 0; r < rows; ++r) {
        Int8Dot dot;
        dot.w = static_cast<const char*>(a.w.data) + (n + r) * a.w.stride;
        dot.n = a.w.cols;
        dot.x = job->x + 2 * col * job->x_stride;
        dot.scales = job->scales + col * job->group_stride;
        dot.sums = job->sums + col * job->group_stride;
        dot.x_stride = job->x_stride;
        dot.group_stride = job->group_stride;
        float dots[kMaxCols];
        job->kernel->dot[cols - 1](dot, dots);
        for (int64_t c = 0; c < cols; ++c) sums[c][r] = dots[c];
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
