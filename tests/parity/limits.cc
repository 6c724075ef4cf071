// What the machine can do at most, measured in the same run as the rows that are held against it.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "harness.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace trimtok::parity {
namespace {

constexpr int kRepeats = 5;  // the best is the one that foreign load spared
constexpr int64_t kSteps = 2'000'000;
constexpr int kChains = 12;  // independent sums: enough to hide the latency of any multiply-add

using Work = void (*)(int64_t steps);

double best_seconds(int32_t threads, const std::function<void(int32_t)>& work) {
  Pool pool(threads);
  double best = 1e30;
  for (int i = 0; i < kRepeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    Pool::run(
        &pool, threads,
        [](void* arg, int64_t task, int32_t) {
          (*static_cast<const std::function<void(int32_t)>*>(arg))(static_cast<int32_t>(task));
        },
        const_cast<std::function<void(int32_t)>*>(&work));
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

#if defined(__x86_64__)

// The sums stay in registers; the empty asm makes the compiler believe that they are looked at.
#define TT_CHAINS(Type, zero, step)                              \
  Type sum[kChains];                                             \
  for (int i = 0; i < kChains; ++i) sum[i] = zero;               \
  for (int64_t n = 0; n < steps; ++n) {                          \
    _Pragma("GCC unroll 12") for (int i = 0; i < kChains; ++i) { \
      sum[i] = step;                                             \
      __asm__("" : "+v"(sum[i]));                                \
    }                                                            \
  }

__attribute__((target("avx2,fma"))) void fma_256(int64_t steps) {
  const __m256 x = _mm256_set1_ps(0.5f);
  TT_CHAINS(__m256, x, _mm256_fmadd_ps(x, x, sum[i]))
}
__attribute__((target("avx512f"))) void fma_512(int64_t steps) {
  const __m512 x = _mm512_set1_ps(0.5f);
  TT_CHAINS(__m512, x, _mm512_fmadd_ps(x, x, sum[i]))
}
__attribute__((target("avx512f,avx512vnni"))) void vnni_512(int64_t steps) {
  const __m512i x = _mm512_set1_epi8(1);
  TT_CHAINS(__m512i, x, _mm512_dpbusd_epi32(sum[i], x, x))
}
__attribute__((target("avx512f,avx512bf16"))) void bf16_512(int64_t steps) {
  const auto x = reinterpret_cast<__m512bh>(_mm512_set1_ps(0.5f));
  TT_CHAINS(__m512, _mm512_setzero_ps(), _mm512_dpbf16_ps(sum[i], x, x))
}
#undef TT_CHAINS

struct Peak {
  Work work = nullptr;
  double operations = 0;  // of one step of one chain
};

Peak peak_of(Isa isa, Compute compute) {
  if (isa == Isa::kAvx2 && compute == Compute::kF32) return {fma_256, 16};
  if (isa < Isa::kAvx512) return {};
  if (compute == Compute::kF32) return {fma_512, 32};
  if (compute == Compute::kInt8) return {vnni_512, 128};
  return isa == Isa::kAvx512Bf16 ? Peak{bf16_512, 64} : Peak{};
}

#else

struct Peak {
  Work work = nullptr;
  double operations = 0;
};
Peak peak_of(Isa, Compute) {
  return {};
}

#endif

}  // namespace

double peak_operations(Isa isa, Compute compute, int32_t threads) {
  const Peak peak = peak_of(isa, compute);
  if (peak.work == nullptr) return 0.0;
  const double seconds = best_seconds(threads, [&](int32_t) { peak.work(kSteps); });
  return peak.operations * kChains * static_cast<double>(kSteps) * threads / seconds;
}

double read_bandwidth(int32_t threads) {
  constexpr size_t kBytes = size_t{256} << 20;  // beyond any cache
  const std::vector<uint64_t> memory(kBytes / sizeof(uint64_t), 1);
  const size_t share = memory.size() / static_cast<size_t>(threads);
  const double seconds = best_seconds(threads, [&](int32_t thread) {
    const uint64_t* p = memory.data() + static_cast<size_t>(thread) * share;
    uint64_t sums[8] = {};
    for (size_t i = 0; i + 8 <= share; i += 8) {
      __builtin_prefetch(p + i + 512);
      for (size_t j = 0; j < 8; ++j) sums[j] += p[i + j];
    }
    __asm__ volatile("" : : "r"(&sums) : "memory");
  });
  return static_cast<double>(share * sizeof(uint64_t)) * threads / seconds;
}

}  // namespace trimtok::parity
