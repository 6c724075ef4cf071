// Runs one table of kernels against the reference bodies: same arguments, separate outputs, every element
// compared under a stated tolerance. Also watched: memory around outputs, scratch bounds, NaN in inputs'
// padding, reads beyond the end of an input (a protected page), results that depend on the thread count.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "trimtok/kernels.h"

namespace trimtok::parity {

// The tables of the CPU, then the CUDA table: compiled by nvcc (and a GPU is there), or executed on the host;
// then stand-ins: tables of instruction sets that this machine lacks, whose code it can execute all the same.
// amx_emulated: the bodies of amx themselves, their tile instructions by the model of tile_unit.h.
// avx_vnni_evex: those of avx_vnni, compiled for the same instruction of AVX-512.
inline constexpr int32_t kNumTables = static_cast<int32_t>(Isa::kNone) + 2;
const char* table_name(int32_t i);
const char* table_name(const KernelTable& table);
const KernelTable* find_table(int32_t i);  // nullptr: not here; a stand-in: or not needed here
bool is_stand_in(const KernelTable& table);
inline bool on_device(const KernelTable& table) {
  return table.isa == Isa::kCuda || table.isa == Isa::kCudaHost;
}
// Waits for a device's work, so that the host may look at results; kOk on the CPU, unless the model of tiles
// has met a misuse.
Status finish(const KernelTable& table);
// What a status other than kOk is about, where more is known than its number.
const char* failure(const KernelTable& table);
// Run 1, 2, 3 of a case on the host execution layer: in forward, reverse and random order. Elsewhere nothing.
void set_run_order(const KernelTable& table, int32_t run);

// Memory that the host and the table's device both see: on a GPU managed memory, elsewhere plain memory.
// Decided once per process, by whether a GPU is there. 256-byte aligned; failure ends the harness.
void* allocate_visible(size_t bytes);
void release_visible(void* p);
bool visible_is_managed();

template <typename T>
struct VisibleAllocator {
  using value_type = T;
  VisibleAllocator() = default;
  template <typename U>
  VisibleAllocator(const VisibleAllocator<U>&) {}  // NOLINT: allocators convert
  T* allocate(size_t n) { return static_cast<T*>(allocate_visible(n * sizeof(T))); }
  void deallocate(T* p, size_t) { release_visible(p); }
  bool operator==(const VisibleAllocator&) const { return true; }
};
// Ids, intervals, slots: what argument structs point to besides tensors.
template <typename T>
using Array = std::vector<T, VisibleAllocator<T>>;

// splitmix64: the same numbers on every platform and standard library.
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t next();
  int32_t below(int32_t n) { return static_cast<int32_t>(next() % static_cast<uint64_t>(n)); }
  float uniform(float low, float high);
  float normal();

 private:
  uint64_t state_;
};

// Where a tensor lies in memory: `offset` and `pad` are in units of the dtype's alignment (4 bytes for f32,
// 2 for f16, 1 for blocks), so that unaligned rows are the rule.
struct Layout {
  int32_t offset = 0;
  int32_t pad = 0;
  bool at_page_end = false;  // the last row ends where a protected page starts; offset is ignored
};

struct Unmap {
  size_t bytes = 0;  // 0: managed memory
  void operator()(char* p) const;
};

// Owns a matrix and what surrounds it. Every byte outside the cells holds 0xFF (NaN in every dtype here).
class Tensor {
 public:
  Tensor(Dtype dtype, int64_t rows, int64_t cols, Layout layout = {});
  Tensor clone() const;  // same place relative to alignment, same bytes

  Matrix matrix() const;
  Dtype dtype() const { return dtype_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  char* row(int64_t r) const { return cells_ + r * stride_; }
  float* f32(int64_t r) const { return reinterpret_cast<float*>(row(r)); }
  // Values of one row as f32, whatever the dtype.
  std::vector<float> values(int64_t r) const;

  void fill_normal(Rng& rng, float scale = 1.0f, float mean = 0.0f);
  void fill_weight(
      Rng& rng);  // any kWeight dtype: random codes, sane scales (some zero, negative, subnormal)
  void poison_row(int64_t r);

  // Distance from the first cell, in bytes, of the first byte outside the cells that differs from `before`.
  std::optional<int64_t> first_stray_write(const Tensor& before) const;
  bool same_bytes(const Tensor& other) const;

 private:
  void allocate();
  Dtype dtype_;
  int64_t rows_;
  int64_t cols_;
  Layout layout_;
  int64_t row_bytes_ = 0;
  int64_t stride_ = 0;
  size_t size_ = 0;  // bytes from base_ to the protected page
  std::unique_ptr<char, Unmap> base_;
  char* cells_ = nullptr;
};

// Threads that really run at once.
class Pool {
 public:
  explicit Pool(int32_t n_threads);
  ~Pool();
  static void run(void* pool, int64_t n_tasks, ExecContext::Task task, void* arg);
  int32_t n_threads() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The execution context of one call: poisoned, bounded scratch and one of three ways to run tasks.
class Execution {
 public:
  enum class Threads { kNone, kSimulated, kReal };  // kSimulated: in order, on pseudo-random thread numbers
  Execution(Threads threads, int32_t n_threads, uint64_t seed, bool scratch_fails = false);
  ~Execution();
  const ExecContext& context() const { return context_; }
  bool scratch_intact() const;

 private:
  static void simulate(void* self, int64_t n_tasks, ExecContext::Task task, void* arg);
  static void* take_scratch(void* self, size_t bytes);
  ExecContext context_;
  Rng rng_;
  bool scratch_fails_;
  std::unique_ptr<Pool> pool_;
  std::vector<std::pair<char*, size_t>> scratch_;
};

struct Options {
  std::string isa;  // empty: every table of this machine
  std::string op;   // empty: every op
  std::string plant;
  uint64_t seed = 1;
  int32_t threads = 1;  // of --bench
  bool quick = false;
  bool list = false;
  bool bench = false;
  bool plan = false;  // of --bench: the work of every row instead of its time
  bool json = false;  // of --bench
};

// Allowed absolute error of out[r][c]; 0 asks for equality.
using Tolerance = std::function<double(int64_t r, int64_t c, double expected)>;
inline double exact(int64_t, int64_t, double) {
  return 0.0;
}

// All cases of one op on one table.
class Suite {
 public:
  Suite(const KernelTable& table, Op op, const Options& options);

  // Starts a case: its description (for the report) and its own random numbers. False: --quick leaves it out.
  [[gnu::format(printf, 2, 3)]] bool begin_case(const char* format, ...);
  Rng& rng() { return rng_; }
  // A layout that changes from case to case.
  Layout next_layout();

  // Runs `entry` of the table and of ref on clones of `out` and compares. `make` builds the arguments around
  // an output; where it aliases an input, the input's values are in `out`.
  template <typename Args>
  void compare(Status (*KernelTable::*entry)(const ExecContext&, const Args&), const Tensor& out,
               const std::function<Args(const Matrix&)>& make, const Tolerance& tolerance,
               bool nan_expected = false) {
    const KernelTable& ref = *cpu_table(Isa::kRef);
    compare_runs(
        out, [&](const ExecContext& ctx, const Matrix& m) { return (ref.*entry)(ctx, make(m)); },
        [&](const ExecContext& ctx, const Matrix& m) { return (table_.*entry)(ctx, make(m)); }, tolerance,
        nan_expected);
  }

  // The table must answer kBadArgument and leave `out` alone.
  template <typename Args>
  void expect_rejected(Status (*KernelTable::*entry)(const ExecContext&, const Args&), const Tensor& out,
                       const Args& args) {
    rejected([&](const ExecContext& ctx) { return (table_.*entry)(ctx, args); }, out);
  }

  // For arguments whose arrays break the contract. A CPU table must answer kBadArgument; a device cannot look
  // before it runs: there the row `concerned` becomes NaN (-1: none), and nothing else goes wrong.
  template <typename Args>
  void expect_contents_rejected(Status (*KernelTable::*entry)(const ExecContext&, const Args&),
                                const Tensor& out, const Args& args, int64_t concerned) {
    if (on_device(table_)) {
      survived([&](const ExecContext& ctx) { return (table_.*entry)(ctx, args); }, out, concerned);
    } else {
      expect_rejected(entry, out, args);
    }
  }

  // One call of the table, finished.
  template <typename Args>
  Status run(Status (*KernelTable::*entry)(const ExecContext&, const Args&), const Args& args,
             Execution::Threads threads = Execution::Threads::kNone, int32_t n_threads = 1) {
    const Execution execution(threads, n_threads, rng_.next());
    const Status s = (table_.*entry)(execution.context(), args);
    return s == Status::kOk ? finish(table_) : s;
  }

  // The table's result against literal numbers that no code of ours made.
  template <typename Args>
  void expect_values(Status (*KernelTable::*entry)(const ExecContext&, const Args&), const Tensor& out,
                     const Args& args, const std::vector<double>& expected) {
    values_match([&](const ExecContext& ctx) { return (table_.*entry)(ctx, args); }, out, expected);
  }

  // For what compare cannot say: the case fails, with these words, unless `ok`.
  void expect(bool ok, const char* what) {
    run_name_ = "checks";
    if (!ok) fail_case("%s", what);
  }

  const KernelTable& table() const { return table_; }
  double tolerance() const;  // this op's: tolerance.h
  bool quick() const { return options_.quick; }
  int64_t cases() const { return cases_; }
  int64_t failures() const { return failures_; }
  double worst() const { return worst_; }  // largest error as a share of what was allowed

 private:
  using Run = std::function<Status(const ExecContext&, const Matrix&)>;
  void compare_runs(const Tensor& out, const Run& ref, const Run& run, const Tolerance& tolerance,
                    bool nan_expected);
  void rejected(const std::function<Status(const ExecContext&)>& run, const Tensor& out);
  void survived(const std::function<Status(const ExecContext&)>& run, const Tensor& out, int64_t concerned);
  void values_match(const std::function<Status(const ExecContext&)>& run, const Tensor& out,
                    const std::vector<double>& expected);
  bool check_output(const Tensor& expected, const Tensor& actual, const Tolerance& tolerance,
                    bool nan_expected);
  [[gnu::format(printf, 2, 3)]] bool fail_case(const char* format, ...);

  const KernelTable& table_;
  Op op_;
  const Options& options_;
  Rng rng_{0};
  std::string description_;
  std::string run_name_;
  int64_t numbered_ = 0;  // every case, also those that --quick leaves out
  int64_t cases_ = 0;
  int64_t failures_ = 0;
  bool case_failed_ = false;
  double worst_ = 0.0;
};

// One per line of ops.def: a line without its check is a link error.
#define TT_OP(name, Args) void check_##name(Suite& suite);
#include "trimtok/ops.def"
#undef TT_OP

// Literal results of small inputs, so that ref itself is held to something.
void check_anchors(Suite& suite, Op op);
void prune_anchors(Suite& suite, Op op);
// Those of greedy_pick by kDeterminant.
void determinant_anchors(Suite& suite);
void check_determinant(Suite& suite);

// A copy of `table` with a deliberate bug in every op; false for an unknown kind.
// tail: the last column of a row is left out unless cols is a multiple of 8. guard: one element is written
// before the first row. threads: the result changes with the number of threads. half: results are rounded to
// f16.
bool plant_bug(const std::string& kind, const KernelTable& table, KernelTable* planted);

// One row per op, shape and dtype.
void bench_table(const KernelTable& table, const Options& options);

}  // namespace trimtok::parity
