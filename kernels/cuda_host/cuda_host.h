// Runs CUDA C++ kernel sources as ordinary C++ on the CPU, to verify what they do. One OS thread; every CUDA
// thread of a block is a fiber; blocks run one after another. docs/cuda.md says what this finds and what it
// cannot show. Only for C++ compilers: nvcc never sees this header (see kernels/cuda/gpu.h).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

#include "kernels/cuda_host/options.h"

namespace cuda_host {

// --- what device code may ask about itself ---
struct PendingCopy {
  void* dst;
  const void* src;
  int bytes;
  int source_bytes;
};
struct Thread {
  static constexpr int kMaxCopies = 512;
  static constexpr int kMaxGroups = 64;
  uint3 index{};
  int linear = 0;
  int lane = 0;
  int warp = 0;
  PendingCopy copies[kMaxCopies];
  int n_copies = 0;
  int group_end[kMaxGroups];  // how many of `copies` belong to this group and those before it
  int n_groups = 0;
};
struct Block {
  dim3 grid{};
  dim3 block{};
  uint3 index{};
};
extern Thread* g_thread;
extern Block g_block;

// Where a collective stands in the source: threads that meet must come from the same place.
#define CUDA_HOST_WHERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// --- the runtime: compiled without sanitizers, so that only what kernels touch is instrumented ---
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Runs, or records where `stream` is being captured.
void submit(void* stream, dim3 grid, dim3 block, size_t dynamic_shared, std::function<void()> body);
void* shared_slot(const void* key, size_t bytes, const char* name);
void* dyn_shared();
int barrier(int predicate, const char* file, int line);  // how many threads had predicate != 0
void warp_barrier(unsigned mask, const char* file, int line);
uint64_t shuffle(unsigned mask, uint64_t value, int source_lane, const char* what, const char* file,
                 int line);
unsigned ballot(unsigned mask, bool predicate, const char* what, const char* file, int line);
enum class Reduction { add, max, min };
int64_t reduce(unsigned mask, int64_t value, Reduction kind, const char* file, int line);
void gather_rows(const void* mine, const void** of_all_lanes, const char* file, int line);
enum class MmaKind { f16, bf16, tf32, s8, s8_k16 };
void mma(MmaKind kind, void* d, const uint32_t* a, const uint32_t* b, const char* file, int line);

// --- asynchronous copies: in the header, because sanitizers must see these accesses ---
inline void copy_now(const PendingCopy& copy) {
  auto* dst = static_cast<unsigned char*>(copy.dst);
  const auto* src = static_cast<const unsigned char*>(copy.src);
  for (int i = 0; i < copy.bytes; ++i)
    dst[i] = i < copy.source_bytes ? src[i] : static_cast<unsigned char>(0);
}

inline void cp_async(void* dst, const void* src, int bytes, int source_bytes) {
  const auto unaligned = [bytes](const void* p) {
    return reinterpret_cast<uintptr_t>(p) % static_cast<unsigned>(bytes) != 0;
  };
  if (unaligned(dst) || (source_bytes > 0 && unaligned(src)))
    fail("cp.async: an address is not aligned to %d", bytes);
  const PendingCopy copy{dst, src, bytes, source_bytes};
  if (!options().deferred_cp_async || options().sm < 80) return copy_now(copy);
  if (g_thread->n_copies == Thread::kMaxCopies) fail("cp.async: too many copies under way");
  for (int i = 0; i < bytes; ++i) static_cast<unsigned char*>(dst)[i] = options().poison;
  g_thread->copies[g_thread->n_copies++] = copy;
}

inline void cp_async_commit() {
  if (g_thread->n_groups == Thread::kMaxGroups) fail("cp.async: too many groups under way");
  g_thread->group_end[g_thread->n_groups++] = g_thread->n_copies;
}

inline void cp_async_wait(int keep) {  // all but the newest `keep` groups land now
  Thread& t = *g_thread;
  const int done = t.n_groups - keep;
  if (done <= 0) return;
  const int n = t.group_end[done - 1];
  for (int i = 0; i < n; ++i) copy_now(t.copies[i]);
  for (int i = n; i < t.n_copies; ++i) t.copies[i - n] = t.copies[i];
  t.n_copies -= n;
  t.n_groups -= done;
  for (int i = 0; i < t.n_groups; ++i) t.group_end[i] = t.group_end[i + done] - n;
}

template <int kMatrices, bool kTransposed>
void ldmatrix(uint32_t (&r)[kMatrices], const void* row, const char* file, int line) {
  const int lane = g_thread->lane;
  if (lane < 8 * kMatrices && reinterpret_cast<uintptr_t>(row) % 16 != 0)
    fail("ldmatrix: a row is not 16-byte aligned");
  const void* rows[32];
  gather_rows(row, rows, file, line);
  for (int m = 0; m < kMatrices; ++m) {  // every lane reads its own elements, so that races name the reader
    uint32_t half[2];
    for (int i = 0; i < 2; ++i) {
      const int pair = (lane & 3) * 2 + i;
      const int r_index = kTransposed ? pair : lane >> 2;
      const int c_index = kTransposed ? lane >> 2 : pair;
      half[i] = static_cast<const uint16_t*>(rows[m * 8 + r_index])[c_index];
    }
    r[m] = half[0] | half[1] << 16;
  }
}

template <typename T, typename Tag>
T& shared_var(Tag,
              const char* name) {  // Tag: a lambda, so a type of its own per declaration and instantiation
  static const char key = 0;
  return *static_cast<T*>(shared_slot(&key, sizeof(T), name));
}

template <typename T>
T shuffle_any(unsigned mask, T value, int source_lane, const char* what, const char* file, int line) {
  static_assert(std::is_trivially_copyable_v<T>);
  uint64_t words[(sizeof(T) + 7) / 8] = {};
  std::memcpy(words, &value, sizeof(T));
  for (uint64_t& word : words) word = shuffle(mask, word, source_lane, what, file, line);
  std::memcpy(static_cast<void*>(&value), words, sizeof(T));
  return value;
}

template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, void* stream, Args&&... args) {
  submit(stream, grid, block, shared,
         [kernel, values = std::tuple<std::decay_t<Params>...>(static_cast<Params>(args)...)] {
           std::apply(kernel, values);
         });
}

}  // namespace cuda_host

#include "kernels/cuda_host/intrinsics.h"
