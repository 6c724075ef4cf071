#include "peaks.h"

#include <time.h>

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "trimtok/view.h"

namespace trimtok::parity {
namespace {

#if defined(__x86_64__)
#include "kernels/cpu/simd/tiles.h"
#endif

constexpr int64_t kRounds = 20000;  // of a chain of multiply-adds: some hundred microseconds
constexpr int kChains = 12;         // independent ones: latency times width of every core that we know

// What one task does, and how many operations or bytes it stands for.
struct Work {
  void (*run)(const char* data, int64_t bytes) = nullptr;
  double per_task = 0.0;
};

// Every chain starts from what the compiler cannot know and ends where it is looked at: else equal chains
// become one, or none.

#if defined(__x86_64__)
#define TT_AVX2 __attribute__((target("avx2,fma")))
#define TT_AVXVNNI __attribute__((target("avx2,avxvnni")))
#define TT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define TT_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#define TT_AMX __attribute__((target("amx-tile,amx-bf16,amx-int8")))

TT_AVX2 void fma_avx2(const char*, int64_t) {
  __m256 acc[kChains] = {};
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : "+x"(acc[c]));
  __m256 x = _mm256_set1_ps(1.0f);
  asm volatile("" : "+x"(x));
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) acc[c] = _mm256_fmadd_ps(x, x, acc[c]);
  }
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : : "x"(acc[c]));
}

// Without VNNI: bytes to 16-bit pairs, pairs to 32 bits, a sum.
TT_AVX2 void int8_avx2(const char*, int64_t) {
  __m256i acc[kChains] = {};
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : "+x"(acc[c]));
  __m256i x = _mm256_set1_epi8(1);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) {
      asm volatile("" : "+x"(x));  // else one product serves every chain and leaves the loop
      acc[c] = _mm256_add_epi32(acc[c], _mm256_madd_epi16(_mm256_maddubs_epi16(x, x), ones));
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : : "x"(acc[c]));
}

TT_AVXVNNI void int8_avx_vnni(const char*, int64_t) {
  __m256i acc[kChains] = {};
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : "+x"(acc[c]));
  __m256i x = _mm256_set1_epi8(1);
  asm volatile("" : "+x"(x));
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) acc[c] = _mm256_dpbusd_avx_epi32(acc[c], x, x);
  }
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : : "x"(acc[c]));
}

TT_AVX512 void fma_avx512(const char*, int64_t) {
  __m512 acc[kChains] = {};
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : "+v"(acc[c]));
  __m512 x = _mm512_set1_ps(1.0f);
  asm volatile("" : "+v"(x));
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) acc[c] = _mm512_fmadd_ps(x, x, acc[c]);
  }
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : : "v"(acc[c]));
}

TT_AVX512 void int8_avx512(const char*, int64_t) {
  __m512i acc[kChains] = {};
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : "+v"(acc[c]));
  __m512i x = _mm512_set1_epi8(1);
  asm volatile("" : "+v"(x));
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) acc[c] = _mm512_dpbusd_epi32(acc[c], x, x);
  }
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : : "v"(acc[c]));
}

TT_AVX512_BF16 void bf16_avx512(const char*, int64_t) {
  __m512 acc[kChains] = {};
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : "+v"(acc[c]));
  __m512i bits = _mm512_set1_epi16(0x3f80);
  asm volatile("" : "+v"(bits));
  const auto x = reinterpret_cast<__m512bh>(bits);
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) acc[c] = _mm512_dpbf16_ps(acc[c], x, x);
  }
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : : "v"(acc[c]));
}

// Four sums of 16 x 16, as a block of 32 rows by 32 outputs has.
constexpr double kTileProducts = 4.0 * 16 * 16 * 16;  // of words
constexpr TileConfig kPeakTiles = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

TT_AMX void bf16_amx(const char*, int64_t) {
  tiles_configure(kPeakTiles);
  for (int64_t i = 0; i < kRounds; ++i) {
    tile_dot_bf16<0, 4, 6>();
    tile_dot_bf16<1, 4, 7>();
    tile_dot_bf16<2, 5, 6>();
    tile_dot_bf16<3, 5, 7>();
  }
  tiles_release();
}

TT_AMX void int8_amx(const char*, int64_t) {
  tiles_configure(kPeakTiles);
  for (int64_t i = 0; i < kRounds; ++i) {
    tile_dot_int8<0, 4, 6>();
    tile_dot_int8<1, 4, 7>();
    tile_dot_int8<2, 5, 6>();
    tile_dot_int8<3, 5, 7>();
  }
  tiles_release();
}

#elif defined(__aarch64__)

void fma_neon(const char*, int64_t) {
  float32x4_t acc[kChains] = {};
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : "+w"(acc[c]));
  float32x4_t x = vdupq_n_f32(1.0f);
  asm volatile("" : "+w"(x));
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) acc[c] = vfmaq_f32(acc[c], x, x);
  }
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) asm volatile("" : : "w"(acc[c]));
}

#endif

void read_memory(const char* data, int64_t bytes) {
  const auto* p = reinterpret_cast<const uint64_t*>(data);
  uint64_t sum[8] = {};
  for (int64_t i = 0; i < bytes / 8; i += 8) {
    for (int j = 0; j < 8; ++j) sum[j] ^= p[i + j];
  }
  asm volatile("" : : "r"(sum) : "memory");
}

Work chain(void (*run)(const char*, int64_t), double ops_per_round) {
  return {run, ops_per_round * kChains * static_cast<double>(kRounds)};
}

struct Job {
  const Work* work;
  const char* data;
  int64_t bytes;  // of one task
};

void run_task(void* arg, int64_t i, int32_t) {
  const Job& job = *static_cast<const Job*>(arg);
  job.work->run(job.data + i * job.bytes, job.bytes);
}

// The best of several rounds is the one that foreign load spared.
double best_rate(const Work& work, Pool& pool, const std::vector<char>& data, double seconds) {
  if (work.run == nullptr) return 0.0;
  const int64_t tasks = int64_t{8} * pool.n_threads();  // so many that both ends of a round are short
  Job job = {&work, data.data(), static_cast<int64_t>(data.size()) / tasks / 64 * 64};
  const double amount =
      static_cast<double>(tasks) * (work.per_task > 0.0 ? work.per_task : static_cast<double>(job.bytes));
  double best = 1e30;
  for (double spent = 0.0; spent < seconds;) {
    const double start = clock_seconds(pool.n_threads());
    Pool::run(&pool, tasks, run_task, &job);
    const double round = clock_seconds(pool.n_threads()) - start;
    best = std::min(best, round);
    spent += round;
  }
  return amount / best;
}

}  // namespace

double clock_seconds(int32_t threads) {
  timespec now;
  clock_gettime(threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

Limits measure_limits(const KernelTable& table, Pool& pool, double seconds) {
  Work f32;
  Work bf16;
  Work int8;
  switch (table.isa) {
#if defined(__x86_64__)
    case Isa::kAvx2:
      f32 = chain(fma_avx2, 16);
      int8 = chain(int8_avx2, 64);
      break;
    case Isa::kAvxVnni:
      f32 = chain(fma_avx2, 16);
      if (!is_stand_in(table)) int8 = chain(int8_avx_vnni, 64);
      break;
    case Isa::kAmx:
      f32 = chain(fma_avx512, 32);
      bf16 = {bf16_amx, 4 * kTileProducts * static_cast<double>(kRounds)};
      int8 = {int8_amx, 8 * kTileProducts * static_cast<double>(kRounds)};
      break;
    case Isa::kAvx512Bf16:
      bf16 = chain(bf16_avx512, 64);
      [[fallthrough]];
    case Isa::kAvx512:
      f32 = chain(fma_avx512, 32);
      int8 = chain(int8_avx512, 128);
      break;
#elif defined(__aarch64__)
    case Isa::kNeon:
    case Isa::kNeonDot:
    case Isa::kNeonI8mm:
      f32 = chain(fma_neon, 8);
      break;
#endif
    default:  // ref: plain loops have no limit worth a share
      break;
  }
  // Written once, so that every page is memory of its own.
  const std::vector<char> data(size_t{256} << 20, 1);
  Limits limits;
  limits.f32 = best_rate(f32, pool, data, seconds);
  limits.bf16 = best_rate(bf16, pool, data, seconds);
  limits.int8 = best_rate(int8, pool, data, seconds);
  limits.read = best_rate({read_memory, 0.0}, pool, data, 2 * seconds);
  return limits;
}

}  // namespace trimtok::parity
