// trimtok_counts: a fixed amount of work, one case after the other, for tools/instruction_counts.py to count
// under valgrind. Time moves with the machine's load, instructions do not.
//   trimtok_counts ISA [LM MMPROJ]
// prints the name of every case; what belongs to a case runs inside trimtok_counted().
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <string>

#include "engine/core/error.h"
#include "engine/runtime/model.h"
#include "engine/runtime/sequence.h"
#include "harness.h"

// By its name the tool finds where counting begins and ends.
extern "C" __attribute__((noinline)) void trimtok_counted(const std::function<void()>& work) {
  work();
}

namespace trimtok::parity {
namespace {

void count(const std::string& name, const std::function<void()>& work) {
  std::printf("%s\n", name.c_str());
  std::fflush(stdout);
  trimtok_counted(work);
}

Tensor normal(Rng& rng, int64_t rows, int64_t cols) {
  Tensor t(Dtype::kF32, rows, cols);
  t.fill_normal(rng);
  return t;
}

class Kernels {
 public:
  explicit Kernels(const KernelTable& table) : table_(table), execution_(Execution::Threads::kNone, 1, 1) {}

  void matmul(Dtype dtype, int64_t rows) {
    const int64_t n = 256;
    const int64_t k = 512;
    Tensor w(dtype, n, k);
    w.fill_weight(rng_);
    const Tensor x = normal(rng_, rows, k);
    const Tensor out(Dtype::kF32, rows, n);
    MatmulArgs args;
    args.out = out.matrix();
    args.x = x.matrix();
    args.w = w.matrix();
    args.compute = cpu_compute(table_.isa, ComputePolicy::kAuto, dtype, rows);
    run("matmul " + std::to_string(rows) + " x 256 x 512 " + dtype_info(dtype)->name, &KernelTable::matmul,
        args);
  }

  void attention(Dtype dtype, int64_t rows, int64_t keys) {
    const int32_t heads = 8;
    const int32_t kv_heads = 2;
    const int32_t head_dim = 64;
    const Tensor q = normal(rng_, rows, heads * head_dim);
    Tensor k(dtype, keys, kv_heads * head_dim);
    k.fill_weight(rng_);
    const Tensor out(Dtype::kF32, rows, heads * head_dim);
    const std::vector<int32_t> begin(static_cast<size_t>(rows), 0);
    std::vector<int32_t> end(static_cast<size_t>(rows));
    std::iota(end.begin(), end.end(), static_cast<int32_t>(keys - rows + 1));  // causal
    const AttentionArgs args{out.matrix(), q.matrix(), k.matrix(), k.matrix(),   heads,     kv_heads,
                             head_dim,     0.125f,     0.0f,       begin.data(), end.data()};
    run("attention " + std::to_string(rows) + " of " + std::to_string(keys) + " " + dtype_info(dtype)->name,
        &KernelTable::attention, args);
  }

  void rows() {
    const Tensor x = normal(rng_, 32, 1024);
    const Tensor y = normal(rng_, 32, 1024);
    const Tensor out(Dtype::kF32, 32, 1024);
    run("rms_norm", &KernelTable::rms_norm, RmsNormArgs{out.matrix(), x.matrix(), y.f32(0), 1e-6f});
    run("gated_act silu", &KernelTable::gated_act,
        GatedActArgs{out.matrix(), x.matrix(), y.matrix(), Activation::kSilu});
    const Tensor stored(Dtype::kF16, 32, 1024);
    run("convert_rows F16", &KernelTable::convert_rows, ConvertRowsArgs{stored.matrix(), x.matrix()});
  }

 private:
  template <typename Args>
  void run(const std::string& name, Status (*KernelTable::*entry)(const ExecContext&, const Args&),
           const Args& args) {
    count(name, [&] {
      if ((table_.*entry)(execution_.context(), args) != Status::kOk) {
        fail(ErrorCode::kInternal, "[counts] %s was refused", name.c_str());
      }
    });
  }

  const KernelTable& table_;
  Execution execution_;
  Rng rng_{1};
};

void count_kernels(const KernelTable& table) {
  Kernels kernels(table);
  for (const Dtype dtype : {Dtype::kQ5_0, Dtype::kIQ4_XS, Dtype::kQ5_K}) kernels.matmul(dtype, 1);
  kernels.matmul(Dtype::kQ4_K, 4);
  for (const Dtype dtype : {Dtype::kF16, Dtype::kQ8_0, Dtype::kQ4_0, Dtype::kQ4_K, Dtype::kQ6_K}) {
    for (const int64_t rows : {1, 32}) kernels.matmul(dtype, rows);
  }
  for (const Dtype dtype : {Dtype::kF16, Dtype::kQ8_0}) {
    kernels.attention(dtype, 1, 1024);
    kernels.attention(dtype, 32, 256);
  }
  kernels.rows();
}

// A picture through the tower, a prompt, some tokens.
void count_model(const std::string& lm, const std::string& mmproj) {
  ModelOptions options;
  options.path = lm;
  options.mmproj = mmproj;
  options.n_threads = 1;
  const RunControl control;
  const std::shared_ptr<Model> model = Model::load(options, control);
  const DecoderInfo& info = model->decoder().info();
  Image image{std::vector<uint8_t>(size_t{3} * 64 * 64, 127), 64, 64};
  count("encode", [&] { model->require_tower().encode(model->backend(), image.view(), control); });

  const int64_t n = 64;
  Rng rng(1);
  const Tensor rows = normal(rng, n, info.n_embd);
  Tensor logits(Dtype::kF32, 1, info.n_vocab);
  SequenceRows input;
  input.rows = rows.matrix();
  input.positions.resize(static_cast<size_t>(n));
  std::iota(input.positions.begin(), input.positions.end(), 0);
  input.visible_end.resize(static_cast<size_t>(n));
  std::iota(input.visible_end.begin(), input.visible_end.end(), 1);
  Sequence sequence(model);
  count("prefill 64", [&] { sequence.prefill(input, 512, logits.matrix(), control); });
  const std::span<float> out(logits.f32(0), static_cast<size_t>(info.n_vocab));
  count("decode 2", [&] {
    sequence.append(300, static_cast<int32_t>(n), out, control);
    sequence.append(301, static_cast<int32_t>(n) + 1, out, control);
  });
}

int run(int argc, char** argv) {
  if (argc != 2 && argc != 4) {
    std::fprintf(stderr, "usage: trimtok_counts ISA [LM MMPROJ]\n");
    return 2;
  }
  for (int32_t i = 0; i < kNumIsas; ++i) {
    const KernelTable* table = cpu_table(static_cast<Isa>(i));
    if (table == nullptr || std::strcmp(argv[1], isa_name(table->isa)) != 0) continue;
    count_kernels(*table);
    setenv("TRIMTOK_CPU_ISA", argv[1], 1);
    if (argc == 4) count_model(argv[2], argv[3]);
    return 0;
  }
  std::fprintf(stderr, "%s: this machine or build has no such instruction set\n", argv[1]);
  return 3;
}

}  // namespace
}  // namespace trimtok::parity

int main(int argc, char** argv) {
  try {
    return trimtok::parity::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
