// greedy_pick for problems that are too wide for one block (stage 2 over thousands of rows): blocks share the
// rows, and one launch a pick joins what they found. No block waits for another and none for the host: every
// block reduces the few candidates that the launch before has left, which is cheaper than a launch of its
// own, comes to the same pick, takes it into the state of its own rows and leaves its best of those.
//
// Per pick: 4 n bytes of gram and 8 n of state, spread over n / 1024 multiprocessors, and the time of a
// launch (some 2 us). kFacility would need a launch per gain that it looks at and stays with one block.
#include "kernels/cuda/greedy.cuh"

namespace trimtok::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kRowsPerBlock = 4 * kThreads;
constexpr int kMostBlocks = kThreads;  // a thread looks at one candidate

// How far the picks are.
struct Progress {
  int32_t t;
  int32_t running;
  Found found;
};

// What a launch leaves for the next; two of them take turns.
struct Handover {
  Progress progress;
  Best best[kMostBlocks];
};
static_assert(2 * sizeof(Handover) <= kWideScratch);

struct Wide {
  GreedyProblem p;
  GreedyRule rule;
  int32_t n;
  int32_t* picks;
  float* scores;
  int32_t* done;
};

// State before the first pick, and the candidates for it: of total, or of what an earlier call has left.
__global__ void __launch_bounds__(kThreads) wide_start_kernel(const __grid_constant__ Wide w, Handover* out) {
  GPU_SHARED(Best, slots, [kWarps]);
  const int t = *w.done;
  float* state = row_of<float>(w.p.state, 0);
  const float fresh = w.rule == GreedyRule::kMaxSum ? 0.0f : -__int_as_float(0x7f800000);
  Best best = nothing();
  for (auto i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x); i < w.n;
       i += static_cast<int>(gridDim.x) * kThreads) {
    if (t <= 0) state[i] = fresh;
    if (t > 0) best = smaller(best, {state[i], i});
    if (t <= 0 && w.p.first < 0) best = smaller(best, {w.p.total[i], i});
  }
  best = block_smallest(best, slots);
  if (threadIdx.x != 0) return;
  out->best[blockIdx.x] = best;
  if (blockIdx.x == 0) {
    const Found found = t < 0 ? Found::kBroken : Found::kRow;
    out->progress = {max(t, 0), t >= 0 && t < w.p.count ? 1 : 0, found};
  }
}

__global__ void __launch_bounds__(kThreads)
    wide_pick_kernel(const __grid_constant__ Wide w, const Handover* in, Handover* out) {
  GPU_SHARED(Best, slots, [kWarps]);
  const bool first_block = blockIdx.x == 0 && threadIdx.x == 0;
  Progress progress = in->progress;
  const auto tid = static_cast<int>(threadIdx.x);
  const bool candidate = tid < static_cast<int>(gridDim.x) && progress.running != 0;
  Best pick = block_smallest(candidate ? in->best[tid] : nothing(), slots);
  if (progress.t == 0 && w.p.first >= 0) {
    pick = {w.p.total == nullptr ? 0.0f : w.p.total[w.p.first], w.p.first};
  }
  const bool stops = w.rule == GreedyRule::kMaxMin && progress.t > 0 && pick.value >= w.p.stop_at;
  if (stops) progress.running = 0;
  const float* g = nullptr;
  if (progress.running != 0) {
    progress.found = pick.index == kNone ? Found::kBroken : gram_row(w.p, pick.index, &g);
    if (progress.found != Found::kRow) progress.running = 0;
  }
  if (progress.running == 0) {
    if (first_block) out->progress = progress;
    return;
  }
  if (first_block) {
    w.picks[progress.t] = pick.index;
    if (w.scores != nullptr) w.scores[progress.t] = pick.value;
    out->progress = {progress.t + 1, progress.t + 1 < w.p.count ? 1 : 0, Found::kRow};
  }
  float* state = row_of<float>(w.p.state, 0);
  Best best = nothing();
  for (auto i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x); i < w.n;
       i += static_cast<int>(gridDim.x) * kThreads) {
    float v = i == pick.index ? __int_as_float(0x7f800000) : state[i];
    v = w.rule == GreedyRule::kMaxSum ? v + g[i] : fmaxf(v, g[i]);
    state[i] = v;
    best = smaller(best, {v, i});
  }
  best = block_smallest(best, slots);
  if (threadIdx.x == 0) out->best[blockIdx.x] = best;
}

// A number that breaks the contract: no further picks, and nobody waits for them.
__global__ void __launch_bounds__(kThreads)
    wide_end_kernel(const __grid_constant__ Wide w, const Handover* in) {
  const bool broken = in->progress.found == Found::kBroken;
  if (*w.done >= w.p.count) return;
  __syncthreads();  // done is written below
  for (int i = in->progress.t + static_cast<int>(threadIdx.x); broken && i < w.p.count; i += kThreads) {
    w.picks[i] = -1;
  }
  if (threadIdx.x == 0) *w.done = broken ? w.p.count : in->progress.t;
}

}  // namespace

Status greedy_wide(const ExecContext& ctx, const GreedyPickArgs& a, int64_t b, void* scratch) {
  Wide w{};
  w.p = a.problems[b];
  w.rule = a.rule;
  w.n = static_cast<int32_t>(w.p.gram.cols);
  w.picks = reinterpret_cast<int32_t*>(static_cast<char*>(a.out.data) + b * a.out.stride);
  if (a.scores.data != nullptr) {
    w.scores = reinterpret_cast<float*>(static_cast<char*>(a.scores.data) + b * a.scores.stride);
  }
  w.done = a.done + b;
  auto* handover = static_cast<Handover*>(scratch);
  const int64_t wanted = gpu::ceil_div(w.n, kRowsPerBlock);
  const dim3 grid(static_cast<unsigned>(wanted < kMostBlocks ? wanted : kMostBlocks));
  Status s = gpu::launch(wide_start_kernel, grid, dim3(kThreads), 0, ctx.stream, w, handover);
  for (int32_t i = 0; i < w.p.count && s == Status::kOk; ++i) {
    s = gpu::launch(wide_pick_kernel, grid, dim3(kThreads), 0, ctx.stream, w, handover + i % 2,
                    handover + (i + 1) % 2);
  }
  if (s != Status::kOk) return s;
  return gpu::launch(wide_end_kernel, dim3(1), dim3(kThreads), 0, ctx.stream, w, handover + w.p.count % 2);
}

}  // namespace trimtok::cuda
