// CUDA's keywords, built-in variables and intrinsics for C++ compilers. Part of cuda_host.h.
#pragma once

#include <cmath>

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#undef __restrict__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict

#define threadIdx (::cuda_host::g_thread->index)
#define blockIdx (::cuda_host::g_block.index)
#define blockDim (::cuda_host::g_block.block)
#define gridDim (::cuda_host::g_block.grid)
constexpr int warpSize = 32;

// --- barriers ---
inline void __syncthreads(CUDA_HOST_WHERE) {
  cuda_host::barrier(0, file, line);
}
inline int __syncthreads_count(int p, CUDA_HOST_WHERE) {
  return cuda_host::barrier(p != 0, file, line);
}
inline int __syncthreads_or(int p, CUDA_HOST_WHERE) {
  return cuda_host::barrier(p != 0, file, line) != 0;
}
inline int __syncthreads_and(int p, CUDA_HOST_WHERE) {
  return cuda_host::barrier(p == 0, file, line) == 0;
}
inline void __syncwarp(unsigned mask = ~0u, CUDA_HOST_WHERE) {
  cuda_host::warp_barrier(mask, file, line);
}

// --- warp collectives ---
template <typename T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32, CUDA_HOST_WHERE) {
  const int base = cuda_host::g_thread->lane & ~(width - 1);
  return cuda_host::shuffle_any(mask, v, base + (source & (width - 1)), "__shfl_sync", file, line);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, CUDA_HOST_WHERE) {
  const int lane = cuda_host::g_thread->lane;
  const int from = lane - static_cast<int>(delta);
  return cuda_host::shuffle_any(mask, v, from < (lane & ~(width - 1)) ? lane : from, "__shfl_up_sync", file,
                                line);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, CUDA_HOST_WHERE) {
  const int lane = cuda_host::g_thread->lane;
  const int from = lane + static_cast<int>(delta);
  return cuda_host::shuffle_any(mask, v, from > (lane | (width - 1)) ? lane : from, "__shfl_down_sync", file,
                                line);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, CUDA_HOST_WHERE) {
  const int lane = cuda_host::g_thread->lane;
  const int from = lane ^ bits;
  return cuda_host::shuffle_any(mask, v, from > (lane | (width - 1)) ? lane : from, "__shfl_xor_sync", file,
                                line);
}
inline unsigned __ballot_sync(unsigned mask, int p, CUDA_HOST_WHERE) {
  return cuda_host::ballot(mask, p != 0, "__ballot_sync", file, line);
}
inline int __any_sync(unsigned mask, int p, CUDA_HOST_WHERE) {
  return cuda_host::ballot(mask, p != 0, "__any_sync", file, line) != 0;
}
inline int __all_sync(unsigned mask, int p, CUDA_HOST_WHERE) {
  return cuda_host::ballot(mask, p == 0, "__all_sync", file, line) == 0;
}
// __reduce_*_sync exists from sm_80 on; sm_75 would not compile it.
#define CUDA_HOST_REDUCE(T, name, kind)                                                        \
  inline T name(unsigned mask, T v, CUDA_HOST_WHERE) {                                         \
    return static_cast<T>(cuda_host::reduce(mask, v, cuda_host::Reduction::kind, file, line)); \
  }
CUDA_HOST_REDUCE(int, __reduce_add_sync, add)
CUDA_HOST_REDUCE(int, __reduce_max_sync, max)
CUDA_HOST_REDUCE(int, __reduce_min_sync, min)
CUDA_HOST_REDUCE(unsigned, __reduce_add_sync, add)
CUDA_HOST_REDUCE(unsigned, __reduce_max_sync, max)
CUDA_HOST_REDUCE(unsigned, __reduce_min_sync, min)
#undef CUDA_HOST_REDUCE

// --- atomics: real, relaxed ones, so that ThreadSanitizer knows them for what they are ---
namespace cuda_host {
template <typename T, typename F>
T atomic_update(T* p, F next) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  auto* word = reinterpret_cast<Word*>(p);
  Word seen = __atomic_load_n(word, __ATOMIC_RELAXED);
  T old;
  Word wanted;
  do {
    std::memcpy(&old, &seen, sizeof(T));
    const T value = next(old);
    std::memcpy(&wanted, &value, sizeof(T));
  } while (!__atomic_compare_exchange_n(word, &seen, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}
}  // namespace cuda_host
#define CUDA_HOST_ATOMIC(name, expression)                                      \
  template <typename T>                                                         \
  T name(T* p, std::type_identity_t<T> v) {                                     \
    return cuda_host::atomic_update(p, [v](T old) -> T { return expression; }); \
  }
CUDA_HOST_ATOMIC(atomicAdd, old + v)
CUDA_HOST_ATOMIC(atomicSub, old - v)
CUDA_HOST_ATOMIC(atomicExch, ((void)old, v))
CUDA_HOST_ATOMIC(atomicMax, old < v ? v : old)
CUDA_HOST_ATOMIC(atomicMin, v < old ? v : old)
CUDA_HOST_ATOMIC(atomicAnd, old& v)
CUDA_HOST_ATOMIC(atomicOr, old | v)
CUDA_HOST_ATOMIC(atomicXor, old ^ v)
CUDA_HOST_ATOMIC(atomicInc, old >= v ? T{0} : old + T{1})
#undef CUDA_HOST_ATOMIC
template <typename T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  return cuda_host::atomic_update(p, [=](T old) -> T { return old == expected ? v : old; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// --- arithmetic. Those that are approximate on a GPU are exact here: tolerances must allow a few ulp. ---
template <typename T>
T __ldg(const T* p) {
  return *p;
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __logf(float x) {
  return std::log(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
inline float __frcp_rn(float x) {
  return 1.0f / x;
}
inline float __fsqrt_rn(float x) {
  return std::sqrt(x);
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __saturatef(float x) {
  return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}
inline int __float2int_rn(float x) {
  return static_cast<int>(std::nearbyint(x));
}
inline int __double2int_rn(double x) {
  return static_cast<int>(std::nearbyint(x));
}
inline float __int2float_rn(int x) {
  return static_cast<float>(x);
}
#define CUDA_HOST_BITS(To, name, From)   \
  inline To name(From from) {            \
    To to;                               \
    std::memcpy(&to, &from, sizeof(to)); \
    return to;                           \
  }
CUDA_HOST_BITS(int, __float_as_int, float)
CUDA_HOST_BITS(unsigned, __float_as_uint, float)
CUDA_HOST_BITS(float, __int_as_float, int)
CUDA_HOST_BITS(float, __uint_as_float, unsigned)
#undef CUDA_HOST_BITS
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __dp4a(int a, int b, int c) {
  uint32_t sum = static_cast<uint32_t>(c);
  for (int i = 0; i < 4; ++i) {
    const int x = static_cast<int8_t>(static_cast<uint32_t>(a) >> (8 * i));
    const int y = static_cast<int8_t>(static_cast<uint32_t>(b) >> (8 * i));
    sum += static_cast<uint32_t>(x * y);
  }
  return static_cast<int>(sum);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned out = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i);
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (pick & 7))) & 0xff;
    if ((pick & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;  // the sign, spread over the byte
    out |= byte << (8 * i);
  }
  return out;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
#define CUDA_HOST_MIN_MAX(T)  \
  constexpr T min(T a, T b) { \
    return b < a ? b : a;     \
  }                           \
  constexpr T max(T a, T b) { \
    return a < b ? b : a;     \
  }
CUDA_HOST_MIN_MAX(int)
CUDA_HOST_MIN_MAX(unsigned)
CUDA_HOST_MIN_MAX(long)
CUDA_HOST_MIN_MAX(unsigned long)
CUDA_HOST_MIN_MAX(float)
CUDA_HOST_MIN_MAX(double)
#undef CUDA_HOST_MIN_MAX

// What cuda_fp16.h offers to device code only.
inline __half __hfma(__half a, __half b, __half c) {
  return __double2half(static_cast<double>(__half2float(a)) * __half2float(b) + __half2float(c));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return __halves2half2(__hfma(__low2half(a), __low2half(b), __low2half(c)),
                        __hfma(__high2half(a), __high2half(b), __high2half(c)));
}
