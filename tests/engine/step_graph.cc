// StepGraph: what it computes is what the ops compute, whatever changes between steps, and it counts how.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "engine/core/isolated.h"
#include "engine/core/step_graph.h"

namespace trimtok::test {
namespace {

constexpr size_t kLimit = size_t{64} << 20;
constexpr int32_t kRows = 5;
constexpr int64_t kCols = 8;

bool counts_are(Backend& backend, int64_t recorded, int64_t replayed, int64_t op_by_op) {
  const StepCounts& c = backend.steps();
  if (c.recorded == recorded && c.replayed == replayed && c.op_by_op == op_by_op) return true;
  std::fprintf(stderr, "recorded %lld, replayed %lld, op by op %lld\n", static_cast<long long>(c.recorded),
               static_cast<long long>(c.replayed), static_cast<long long>(c.op_by_op));
  return false;
}

// Row i of a table holds i, and a step picks one row, adds another and doubles: twice their sum.
class Model {
 public:
  explicit Model(Backend& backend)
      : backend_(backend), table_(backend.buffer(kRows * kCols * sizeof(float))) {
    std::vector<float> values;
    for (int32_t i = 0; i < kRows; ++i) values.insert(values.end(), kCols, static_cast<float>(i));
    table_.write(values.data(), values.size() * sizeof(float));
  }

  struct How {
    bool peeks = false;         // the host looks at the rows half way
    int64_t n_doubled = kCols;  // of the columns
    size_t padding = 0;         // bytes of another upload, zeros that are added
    bool goes_on = false;       // with an op behind what the host reads
  };
  // One step; 0 where a result is wrong.
  float step(StepGraph& graph, int32_t first, int32_t second, const How& how) {
    StepGraph::Step step(graph);
    const float sum = run(first, second, how);
    step.finish();
    return sum;
  }
  float step(StepGraph& graph, int32_t first, int32_t second) { return step(graph, first, second, {}); }

 private:
  float run(int32_t first, int32_t second, const How& how) {
    const Arena::Mark mark(backend_.arena());
    const ConstMatrix table(table_.data(), Dtype::kF32, kRows, kCols, kCols * 4);
    const Matrix x = backend_.arena().matrix(1, kCols);
    const Matrix y = backend_.arena().matrix(1, kCols);
    {
      const Arena::Mark inner(backend_.arena());
      const Matrix picked = backend_.arena().matrix(1, kCols);
      backend_.gather_rows({picked, table, backend_.upload(std::span<const int32_t>(&first, 1))}, "test");
      backend_.convert_rows({.out = x, .x = picked}, "test");
    }
    if (how.padding > 0) {  // where there is no room for it, it comes to lie where `picked` was
      const std::vector<float> zeros(how.padding / sizeof(float));
      const float* padding = backend_.upload(std::span<const float>(zeros));
      backend_.add({x, x, {padding, Dtype::kF32, 1, kCols, kCols * 4}}, "test");
    }
    if (how.peeks) {
      float seen = -1.0f;
      backend_.fetch(std::span(&seen, 1), static_cast<const float*>(x.data));
      if (seen != static_cast<float>(first)) return 0.0f;
    }
    backend_.gather_rows({y, table, backend_.upload(std::span<const int32_t>(&second, 1))}, "test");
    backend_.add({x, x, y}, "test");
    const Matrix part = {x.data, Dtype::kF32, 1, how.n_doubled, x.stride};
    backend_.add({part, part, part}, "test");
    std::vector<float> result(kCols);
    backend_.fetch(std::span(result), static_cast<const float*>(x.data));
    for (int64_t i = 1; i < how.n_doubled; ++i) {
      if (result[static_cast<size_t>(i)] != result[0]) return 0.0f;
    }
    if (how.goes_on) {
      backend_.add({x, x, x}, "test");
      backend_.fetch(std::span(result), static_cast<const float*>(x.data));
      result[0] /= 2.0f;
    }
    return result[0];
  }

  Backend& backend_;
  Buffer table_;
};

void replays(Backend& backend) {
  Model model(backend);
  StepGraph graph(backend);
  TT_EXPECT(model.step(graph, 1, 2) == 6.0f);
  TT_EXPECT(counts_are(backend, 0, 0, 1));
  TT_EXPECT(model.step(graph, 3, 4) == 14.0f);
  TT_EXPECT(model.step(graph, 2, 2) == 8.0f);
  TT_EXPECT(counts_are(backend, 1, 2, 1));
  // Another argument in the last op: the others, put off until then, run with what was uploaded now.
  TT_EXPECT(model.step(graph, 4, 1, {.n_doubled = 4}) == 10.0f);
  TT_EXPECT(counts_are(backend, 1, 2, 2));
  TT_EXPECT(model.step(graph, 0, 1, {.n_doubled = 4}) == 2.0f);
  TT_EXPECT(counts_are(backend, 2, 3, 2));
  // Two sequences, each with a graph of its own, in turn.
  StepGraph other(backend);
  for (int32_t i = 0; i < 4; ++i) {
    TT_EXPECT(model.step(graph, i, 1, {.n_doubled = 4}) == static_cast<float>(2 * i + 2));
    TT_EXPECT(model.step(other, i, 0) == static_cast<float>(2 * i));
  }
  TT_EXPECT(counts_are(backend, 3, 10, 3));
  // Without a step nothing is put off.
  backend.settle();
  const Arena::Mark mark(backend.arena());
  float one = 1.0f;
  const Matrix x = {backend.update(std::span(&one, 1)), Dtype::kF32, 1, 1, 4};
  backend.add({x, x, x}, "test");
  backend.fetch(std::span(&one, 1), static_cast<const float*>(x.data));
  TT_EXPECT(one == 2.0f);
}

// What cannot be recorded runs op by op, and says so.
void runs_op_by_op(Backend& backend) {
  Model model(backend);
  StepGraph graph(backend);
  for (int32_t i = 1; i < 4; ++i) {
    TT_EXPECT(model.step(graph, i, 1, {.peeks = true}) == static_cast<float>(2 * i + 2));
  }
  TT_EXPECT(counts_are(backend, 0, 0, 3));
  StepGraph long_graph(backend);
  for (int32_t i = 1; i < 4; ++i) {
    TT_EXPECT(model.step(long_graph, i, 1, {.goes_on = true}) == static_cast<float>(2 * i + 2));
  }
  TT_EXPECT(counts_are(backend, 0, 0, 6));
  // More is uploaded than there is room for: there is in the next step.
  StepGraph wide(backend);
  for (int32_t i = 0; i < 4; ++i) {
    const size_t padding = i == 0 ? 128 : 100 << 10;
    TT_EXPECT(model.step(wide, i, 1, {.padding = padding}) == static_cast<float>(2 * i + 2));
  }
  TT_EXPECT(counts_are(backend, 1, 1, 9));
}

// Plain memory that fails on demand.
class FailingMemory final : public DeviceMemory {
 public:
  bool fails_to_record = false, fails_to_launch = false;

  const char* name() const noexcept override { return "failing"; }
  void* allocate(size_t bytes) noexcept override {
    return std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  }
  void release(void* p, size_t) noexcept override { std::free(p); }
  void write(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void read(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  std::unique_ptr<RecordedWork> record(std::function<void()> work) override {
    if (fails_to_record) fail(ErrorCode::kInternal, "[failing] cannot record");
    if (!fails_to_launch) return DeviceMemory::record(std::move(work));
    return DeviceMemory::record([] { fail(ErrorCode::kInternal, "[failing] cannot launch"); });
  }
  size_t available() const override { return kLimit; }
  size_t used() const noexcept override { return 0; }
};

size_t g_scratch = 0;  // bytes that add asks for
void* g_given = nullptr;
Status add_with_scratch(const ExecContext& ctx, const AddArgs& a) {
  g_given = ctx.scratch(ctx.scratch_owner, g_scratch);
  return g_given == nullptr ? Status::kOutOfMemory : ref::add(ctx, a);
}

void failures_are_forgotten() {
  const auto memory = std::make_shared<FailingMemory>();
  const auto backend = Backend::over(cpu_table(Isa::kRef), 1, memory);
  Model model(*backend);
  StepGraph graph(*backend);
  (void)model.step(graph, 1, 2);
  memory->fails_to_record = true;
  TT_EXPECT(error_of([&] { model.step(graph, 1, 2); }) == "[failing] cannot record");
  memory->fails_to_record = false;
  memory->fails_to_launch = true;
  TT_EXPECT(model.step(graph, 1, 3) == 8.0f);
  TT_EXPECT(counts_are(*backend, 0, 0, 2));
  TT_EXPECT(error_of([&] { model.step(graph, 1, 2); }) == "[failing] cannot launch");
  memory->fails_to_launch = false;
  TT_EXPECT(model.step(graph, 1, 2) == 6.0f);
  TT_EXPECT(model.step(graph, 2, 2) == 8.0f);
  TT_EXPECT(counts_are(*backend, 2, 1, 3));
  // An op that refuses its arguments, which names itself; one that no recording can hold; a step in a step.
  const std::string refused = error_of([&] { model.step(graph, 1, 2, {.n_doubled = -1}); });
  TT_EXPECT(refused.find("[add] test") == 0);
  TT_EXPECT(model.step(graph, 1, 2) == 6.0f);
  const std::string greedy = error_of([&] {
    const StepGraph::Step step(graph);
    backend->greedy_pick({}, "test");
  });
  TT_EXPECT(greedy.find("[greedy_pick] test: cannot be part of a step") == 0);
  const std::string nested = error_of([&] {
    const StepGraph::Step step(graph);
    StepGraph inner(*backend);
    const StepGraph::Step again(inner);
  });
  TT_EXPECT(nested.find("[step] begins inside another one") == 0);
  TT_EXPECT(model.step(graph, 1, 2) == 6.0f);
}

// Scratch is no argument: a recording that would use what was given back must not run.
void scratch_moves() {
  KernelTable table = *cpu_table(Isa::kRef);
  table.add = add_with_scratch;
  const auto backend = Backend::over(&table, 1, std::make_shared<FailingMemory>());
  Model model(*backend);
  StepGraph graph(*backend);
  g_scratch = 1000;
  for (int32_t i = 0; i < 3; ++i) TT_EXPECT(model.step(graph, i, 1) == static_cast<float>(2 * i + 2));
  TT_EXPECT(counts_are(*backend, 1, 2, 1));
  const void* before = g_given;
  const Buffer in_the_way(1000, backend->memory());
  g_scratch = size_t{1} << 22;
  {
    const Arena::Mark mark(backend->arena());
    float one = 1.0f;
    const Matrix x = {backend->update(std::span(&one, 1)), Dtype::kF32, 1, 1, 4};
    backend->add({x, x, x}, "another caller");
  }
  TT_EXPECT(g_given != before);
  g_scratch = 1000;
  for (int32_t i = 0; i < 3; ++i) TT_EXPECT(model.step(graph, i, 1) == static_cast<float>(2 * i + 2));
  TT_EXPECT(counts_are(*backend, 2, 5, 1));
}

// A sequence may end on one thread while another one records: waiting for the stream would spoil the capture.
void records_alone(Backend& backend) {
  std::unique_ptr<RecordedWork> other = backend.memory()->record([] {});
  std::thread closes;
  const std::string error = error_of([&] {
    const auto mine = backend.memory()->record([&] {
      closes = std::thread([&] { other.reset(); });
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    });
    mine->launch();
  });
  closes.join();
  TT_EXPECT(error.empty());
}

}  // namespace

void check_step_graph() {
  replays(*Backend::isolated(1, kLimit));
  runs_op_by_op(*Backend::isolated(1, kLimit));
  failures_are_forgotten();
  scratch_moves();
  std::string reason;
  for (auto* check : {replays, runs_op_by_op, records_alone}) {
    const auto backend = Backend::cuda(1, reason);
    if (backend != nullptr) check(*backend);
  }
  if (!reason.empty()) std::printf("SKIPPED cuda steps: %s\n", reason.c_str());
}

}  // namespace trimtok::test
