// --bench: seconds of one call at shapes of real models, as rates and shares of what the machine can do. Not
// a test; foreign load moves it. With --json one object a line: the limits first, then the rows.
// --plan: the same rows with the bytes and FLOPs that a call cannot do without, for the performance model of
// docs/cuda_model.md; nothing is run. Bytes: every input and output once, as stored.
#include <algorithm>
#include <cstdio>

#include "harness.h"
#include "peaks.h"

namespace trimtok::parity {
namespace {

constexpr Dtype kF32 = Dtype::kF32;
constexpr double kSecondsPerRow = 0.15;
constexpr int kSamples = 3;
constexpr double kQuickSeconds = 0.02;
constexpr double kUncachedBytes = 64 << 20;  // an op that reads so much waits for memory, not for a cache

// Scratch that persists, as the engine's does.
struct BenchContext {
  explicit BenchContext(int32_t threads) : pool(threads) {
    context.n_threads = threads;
    context.pool = &pool;
    context.parallel = Pool::run;
    context.scratch_owner = this;
    context.scratch = [](void* self, size_t bytes) -> void* {
      auto& buffer = static_cast<BenchContext*>(self)->scratch;
      if (buffer.size() < bytes) buffer.resize(bytes);
      return buffer.data();
    };
  }
  Pool pool;
  Array<char> scratch;
  ExecContext context;
};

class Bench {
 public:
  Bench(const KernelTable& table, const Options& options)
      : table_(table),
        options_(options),
        seconds_(options.quick ? kQuickSeconds : kSecondsPerRow),
        exec_(options.threads),
        // A device's limits are not this machine's: tools/gpu_report.py holds its rows against a model.
        limits_(of_device() ? Limits{} : measure_limits(table, exec_.pool, seconds_)) {
    print_limit("f32", limits_.f32);
    print_limit("bf16", limits_.bf16);
    print_limit("int8", limits_.int8);
    print_limit("read", limits_.read);
  }

  // `bytes` and `flops` of one call; the best of several timed groups is the one that foreign load spared.
  template <typename Args>
  void row(Op op, Status (*KernelTable::*entry)(const ExecContext&, const Args&), const Args& args,
           const std::string& shape, double bytes, double flops, Compute compute = Compute::kF32,
           const std::function<void()>& before_each = nullptr) {
    if (!options_.op.empty() && options_.op != op_name(op)) return;
    if (options_.plan) {
      std::printf("plan;%s;%s;%.0f;%.0f\n", op_name(op), shape.c_str(), bytes, flops);
      return;
    }
    double best = 1e30;
    double spent = 0.0;
    int64_t calls = 1;
    // The first group also pays for moving managed memory to a GPU: never the best one.
    for (int samples = 0; spent < seconds_ || samples < kSamples; ++samples) {
      const double start = clock();
      for (int64_t i = 0; i < calls; ++i) {
        if (before_each) {
          (void)finish(table_);
          before_each();
        }
        if ((table_.*entry)(exec_.context, args) != Status::kOk) {
          std::printf("%s %s %s: refused\n", table_name(table_), op_name(op), shape.c_str());
          return;
        }
      }
      // A device's calls only queue: the wait at the end is shared by all of them.
      if (finish(table_) != Status::kOk) {
        std::printf("%s %s %s: failed\n", table_name(table_), op_name(op), shape.c_str());
        return;
      }
      const double seconds = clock() - start;
      best = std::min(best, seconds / static_cast<double>(calls));
      spent += seconds;
      if (seconds < seconds_ / 10) calls *= 2;
    }
    print_row(op, shape, compute, best, bytes, flops);
  }

  // One row per rounding that the table has a body for. Bytes: the weights' on the CPU, all on a device.
  void matmul(MatmulArgs args, const std::string& shape, double weight_bytes) {
    const double flops = 2.0 * static_cast<double>(args.x.rows * args.w.rows * args.w.cols);
    if (of_device()) {
      const double others = 4.0 * static_cast<double>(args.x.rows * (args.w.rows + args.w.cols));
      row(Op::k_matmul, &KernelTable::matmul, args, shape, weight_bytes + others, flops);
      args.compute = cuda_compute(ComputePolicy::kInt8, args.w.dtype, args.x.rows);
      if (args.compute != Compute::kInt8) return;
      row(Op::k_matmul, &KernelTable::matmul, args, shape + " int8", weight_bytes + others, flops,
          Compute::kInt8);
      return;
    }
    for (const Compute compute : {Compute::kF32, Compute::kBf16, Compute::kInt8}) {
      args.compute = compute;
      if (compute == Compute::kBf16 && !cpu_serves(table_.isa, ComputePolicy::kBf16)) continue;
      if (compute == Compute::kInt8 && dtype_info(args.w.dtype)->block_elems == 1) continue;
      row(Op::k_matmul, &KernelTable::matmul, args, shape, weight_bytes, flops, compute);
    }
  }

 private:
  bool of_device() const { return options_.plan || on_device(table_); }
  // CPU time says nothing about a device.
  double clock() const { return clock_seconds(of_device() ? 0 : options_.threads); }

  void print_limit(const char* resource, double per_second) const {
    if (per_second == 0.0) return;
    const bool bytes = std::string(resource) == "read";
    if (options_.json) {
      std::printf("{\"limit\": \"%s\", \"isa\": \"%s\", \"threads\": %d, \"per_second\": %.6g}\n", resource,
                  table_name(table_), options_.threads, per_second);
      return;
    }
    std::printf("%-11s limit        %-34s threads=%d %25.2f %s\n", table_name(table_), resource,
                options_.threads, per_second * 1e-9, bytes ? "GB/s" : "GFLOP/s");
  }

  // The share of the nearest limit: 1 where the call takes as long as its operations, or as its bytes where
  // no cache holds them. 0: no limit is known.
  double share(Compute compute, double seconds, double bytes, double flops) const {
    const double peak = compute == Compute::kF32    ? limits_.f32
                        : compute == Compute::kBf16 ? limits_.bf16
                                                    : limits_.int8;
    double least = peak > 0.0 ? flops / peak : 0.0;
    if (bytes >= kUncachedBytes && limits_.read > 0.0) least = std::max(least, bytes / limits_.read);
    return least / seconds;
  }

  void print_row(Op op, const std::string& shape, Compute compute, double seconds, double bytes,
                 double flops) const {
    const char* isa = table_name(table_);
    const char* served_by = isa_name(table_.served_by[static_cast<int32_t>(op)]);
    const double of_limit = share(compute, seconds, bytes, flops);
    if (options_.json) {
      std::printf("{\"op\": \"%s\", \"isa\": \"%s\", \"served_by\": \"%s\", \"shape\": \"%s\", ", op_name(op),
                  isa, served_by, shape.c_str());
      std::printf(
          "\"compute\": \"%s\", \"threads\": %d, \"seconds\": %.6g, \"bytes\": %.6g, \"flops\": %.6g, "
          "\"of_limit\": %.4f}\n",
          compute_name(compute), options_.threads, seconds, bytes, flops, of_limit);
      return;
    }
    std::printf(
        "%-11s %-12s %-29s %-4s threads=%d %11.2f us %8.2f GB/s %9.2f GFLOP/s %4.0f %% served_by=%s\n", isa,
        op_name(op), shape.c_str(), compute_name(compute), options_.threads, seconds * 1e6,
        bytes / seconds * 1e-9, flops / seconds * 1e-9, 100 * of_limit, served_by);
  }

  const KernelTable& table_;
  const Options& options_;
  double seconds_;
  BenchContext exec_;
  Limits limits_;
};

Tensor normal(Rng& rng, int64_t rows, int64_t cols) {
  Tensor t(kF32, rows, cols);
  t.fill_normal(rng);
  return t;
}

void bench_rows(Bench& bench, Rng& rng) {
  const int64_t rows = 576;
  const int64_t cols = 1024;
  const Tensor x = normal(rng, rows, cols);
  const Tensor y = normal(rng, rows, cols);
  const Tensor out(kF32, rows, cols);
  const double bytes = static_cast<double>(rows * cols * 4);
  const std::string shape = "T=576 D=1024";
  bench.row(Op::k_rms_norm, &KernelTable::rms_norm, RmsNormArgs{out.matrix(), x.matrix(), y.f32(0), 1e-6f},
            shape, 2 * bytes, 0);
  bench.row(Op::k_layer_norm, &KernelTable::layer_norm,
            LayerNormArgs{out.matrix(), x.matrix(), y.f32(0), y.f32(1), 1e-6f}, shape, 2 * bytes, 0);
  bench.row(Op::k_add, &KernelTable::add, AddArgs{out.matrix(), x.matrix(), y.matrix()}, shape, 3 * bytes, 0);
  const char* names[] = {"none", "gelu_tanh", "gelu_erf", "quick_gelu", "silu"};
  for (int32_t act = 0; act < 5; ++act) {
    bench.row(Op::k_gated_act, &KernelTable::gated_act,
              GatedActArgs{out.matrix(), x.matrix(), y.matrix(), static_cast<Activation>(act)},
              shape + " " + names[act], 3 * bytes, 0);
  }
  const Tensor cos = normal(rng, rows, 32);
  // Rotation keeps the length, so repeated calls on the same memory stay in range only with unit tables.
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < 32; ++c) cos.f32(r)[c] = 1.0f;
  }
  const Tensor sin(kF32, rows, 32);
  for (int64_t r = 0; r < rows; ++r) std::fill_n(sin.f32(r), 32, 0.0f);
  for (const RopePairs pairs : {RopePairs::kAdjacent, RopePairs::kHalves}) {
    bench.row(Op::k_rope, &KernelTable::rope, RopeArgs{x.matrix(), 64, cos.matrix(), sin.matrix(), pairs},
              shape + (pairs == RopePairs::kHalves ? " halves" : " adjacent"), 2 * bytes, 0);
  }
  const Tensor pixels = normal(rng, 1, 3 * 336 * 336);
  const Tensor patches(kF32, 576, 588);
  bench.row(Op::k_patchify, &KernelTable::patchify,
            PatchifyArgs{patches.matrix(), pixels.f32(0), 3, 336, 336, 14}, "3x336x336 patch=14",
            2.0 * 3 * 336 * 336 * 4, 0);
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16, Dtype::kQ8_0}) {
    const Tensor stored(dtype, rows, cols);
    bench.row(Op::k_convert_rows, &KernelTable::convert_rows, ConvertRowsArgs{stored.matrix(), x.matrix()},
              shape + " " + dtype_info(dtype)->name,
              bytes + static_cast<double>(rows * row_bytes(dtype, cols)), 0);
  }
}

void bench_weights(Bench& bench, Rng& rng, Dtype dtype) {
  const std::string name = dtype_info(dtype)->name;
  const int64_t n = 2048;
  const int64_t k = 2048;
  Tensor w(dtype, n, k);
  w.fill_weight(rng);
  const auto weight_bytes = static_cast<double>(n * row_bytes(dtype, k));
  Array<int32_t> ids;
  for (int32_t i = 0; i < 64; ++i) ids.push_back(i * 31 % static_cast<int32_t>(n));
  const Tensor gathered(kF32, 64, k);
  bench.row(Op::k_gather_rows, &KernelTable::gather_rows,
            GatherRowsArgs{gathered.matrix(), w.matrix(), ids.data(), 1.0f}, "T=64 D=2048 " + name,
            64.0 * static_cast<double>(k * 4 + row_bytes(dtype, k)), 0);
  for (const int64_t t : {1, 4, 512}) {
    const Tensor x = normal(rng, t, k);
    const Tensor out(kF32, t, n);
    MatmulArgs args;
    args.out = out.matrix();
    args.x = x.matrix();
    args.w = w.matrix();
    bench.matmul(args, "T=" + std::to_string(t) + " N=2048 K=2048 " + name, weight_bytes);
  }
}

// A chunk of prefill: too much for one CPU core to be worth waiting for.
void bench_prefill(Bench& bench, Rng& rng, Dtype dtype) {
  const int64_t t = 2048;
  const int64_t n = 4096;
  Tensor w(dtype, n, n);
  w.fill_weight(rng);
  const Tensor x = normal(rng, t, n);
  const Tensor out(kF32, t, n);
  MatmulArgs args;
  args.out = out.matrix();
  args.x = x.matrix();
  args.w = w.matrix();
  bench.matmul(args, std::string("T=2048 N=4096 K=4096 ") + dtype_info(dtype)->name,
               static_cast<double>(n * row_bytes(dtype, n)));
}

void bench_pruning(Bench& bench, Rng& rng) {
  const int64_t rows = 576;
  const int64_t cols = 1024;
  const int32_t picks = 64;
  const Tensor x = normal(rng, rows, cols);
  const Tensor unit(kF32, rows, cols);
  const auto bytes = static_cast<double>(rows * cols * 4);
  bench.row(Op::k_unit_rows, &KernelTable::unit_rows, UnitRowsArgs{unit.matrix(), x.matrix(), nullptr},
            "T=576 D=1024", 2 * bytes, 0);
  const Tensor sums(kF32, 1, cols);
  const Array<int32_t> begin = {0, static_cast<int32_t>(rows)};
  bench.row(Op::k_sum_rows, &KernelTable::sum_rows,
            SumRowsArgs{sums.matrix(), x.matrix(), nullptr, begin.data()}, "T=576 D=1024 B=1", bytes, 0);
  const Tensor gram(kF32, rows, rows);
  bench.row(Op::k_gram, &KernelTable::gram, GramArgs{gram.matrix(), x.matrix(), 0, rows}, "T=576 D=1024",
            bytes + static_cast<double>(rows * rows * 4), static_cast<double>(rows * rows * cols));
  const Tensor similarity = normal(rng, rows, rows);
  const Array<float> total(static_cast<size_t>(rows), 1.0f);
  for (const GreedyRule rule : {GreedyRule::kMaxSum, GreedyRule::kMaxMin, GreedyRule::kFacility}) {
    const bool facility = rule == GreedyRule::kFacility;
    const Tensor state(kF32, facility ? 3 : 1, rows);
    GreedyProblem problem;
    problem.gram = similarity.matrix();
    problem.total = total.data();
    problem.state = state.matrix();
    problem.count = picks;
    Array<int32_t> done = {0};
    const Tensor out(Dtype::kI32, 1, picks);
    const char* names[] = {"max_sum", "max_min", "facility"};
    const double read =
        facility ? static_cast<double>(rows * rows * 4) : static_cast<double>(picks * rows * 4);
    bench.row(Op::k_greedy_pick, &KernelTable::greedy_pick,
              GreedyPickArgs{out.matrix(), Matrix{}, &problem, done.data(), rule},
              std::string("n=576 count=64 ") + names[static_cast<int32_t>(rule)], read,
              facility ? 3.0 * static_cast<double>(rows * rows) : 2.0 * static_cast<double>(picks * rows),
              Compute::kF32, [&] { done[0] = 0; });
  }
}

// One row of x against more weight bytes than any cache holds: the rate at which decoding reads memory.
void bench_streaming(Bench& bench, Rng& rng, Dtype dtype) {
  const int64_t k = 4096;
  const int64_t bytes = row_bytes(dtype, k);
  const int64_t n = (int64_t{96} << 20) / bytes;
  const int64_t distinct = 64;
  Tensor pattern(dtype, distinct, k);
  pattern.fill_weight(rng);
  const Tensor w(dtype, n, k);
  for (int64_t r = 0; r < n; ++r) std::copy_n(pattern.row(r % distinct), bytes, w.row(r));
  const Tensor x = normal(rng, 1, k);
  const Tensor out(kF32, 1, n);
  MatmulArgs args;
  args.out = out.matrix();
  args.x = x.matrix();
  args.w = w.matrix();
  bench.matmul(args, std::string("T=1 K=4096 96 MiB ") + dtype_info(dtype)->name,
               static_cast<double>(n * bytes));
}

void bench_attention(Bench& bench, Rng& rng, Dtype dtype, int64_t rows, int64_t keys) {
  const int32_t heads = 16;
  const int32_t kv_heads = 4;
  const int32_t head_dim = 64;
  const Tensor q = normal(rng, rows, heads * head_dim);
  Tensor k(dtype, keys, kv_heads * head_dim);
  k.fill_weight(rng);
  const Tensor out(kF32, rows, heads * head_dim);
  const Array<int32_t> begin(static_cast<size_t>(rows), 0);
  const Array<int32_t> end(static_cast<size_t>(rows), static_cast<int32_t>(keys));
  const AttentionArgs args{out.matrix(), q.matrix(), k.matrix(), k.matrix(),   heads,     kv_heads,
                           head_dim,     0.125f,     0.0f,       begin.data(), end.data()};
  bench.row(
      Op::k_attention, &KernelTable::attention, args,
      "H=16 G=4 E=64 T=" + std::to_string(rows) + " S=" + std::to_string(keys) + " " +
          dtype_info(dtype)->name,
      2.0 * static_cast<double>(keys * row_bytes(dtype, kv_heads * head_dim) + rows * heads * head_dim * 4),
      4.0 * heads * head_dim * static_cast<double>(rows * keys));
}

// What ops do on the side, for comparison with the rows without: only of the CPU, whose limits are measured.
void bench_fusions(Bench& bench, Rng& rng) {
  const int64_t n = 2048;
  Tensor w(Dtype::kQ4_K, n, n);
  w.fill_weight(rng);
  const Tensor weight = normal(rng, 1, n);
  const Tensor times = normal(rng, 512, n);
  const Tensor out(kF32, 512, n);
  for (const int64_t t : {1, 512}) {
    const Tensor x = normal(rng, t, n);
    MatmulArgs args;
    args.out = Matrix{out.row(0), kF32, t, n, n * 4};
    args.x = x.matrix();
    args.w = w.matrix();
    args.act = Activation::kSilu;
    args.norm = {RowNorm::Kind::kRms, weight.f32(0), nullptr, 1e-6f};
    args.times = Matrix{times.row(0), kF32, t, n, n * 4};
    bench.matmul(args, "T=" + std::to_string(t) + " N=2048 K=2048 Q4_K fused",
                 static_cast<double>(n * row_bytes(Dtype::kQ4_K, n)));
  }
  const int64_t rows = 576;
  const Tensor x = normal(rng, rows, 1024);
  const Tensor angles = normal(rng, rows, 32);
  const Tensor stored(Dtype::kF16, rows, 1024);
  ConvertRowsArgs args{stored.matrix(), x.matrix()};
  args.rotation = {angles.matrix(), angles.matrix()};
  args.head_dim = 64;
  bench.row(Op::k_convert_rows, &KernelTable::convert_rows, args, "T=576 D=1024 F16 rotated",
            static_cast<double>(rows * 1024 * 6), 0);
}

}  // namespace

void bench_table(const KernelTable& table, const Options& options) {
  Bench bench(table, options);
  Rng rng(options.seed);
  bench_rows(bench, rng);
#define TT_DTYPE(name, id, block_elems, block_bytes, use) \
  if (DtypeUse::use == DtypeUse::kWeight) bench_weights(bench, rng, Dtype::k##name);
#include "trimtok/dtypes.def"
#undef TT_DTYPE
  for (const Dtype dtype :
       {Dtype::kF16, Dtype::kQ8_0, Dtype::kQ4_0, Dtype::kQ4_K, Dtype::kQ5_K, Dtype::kQ6_K, Dtype::kIQ4_XS}) {
    bench_streaming(bench, rng, dtype);
  }
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kQ8_0}) {
    for (const int64_t keys : {2048, 4096}) {
      bench_attention(bench, rng, dtype, 1, keys);
      bench_attention(bench, rng, dtype, 512, keys);
    }
  }
  bench_pruning(bench, rng);
  if (!on_device(table) && !options.plan) {
    bench_fusions(bench, rng);
    return;
  }
  for (const Dtype dtype :
       {Dtype::kF16, Dtype::kBF16, Dtype::kQ8_0, Dtype::kQ4_0, Dtype::kQ4_K, Dtype::kQ6_K}) {
    bench_prefill(bench, rng, dtype);
  }
  bench_attention(bench, rng, Dtype::kF16, 2048, 2048);
}

}  // namespace trimtok::parity
