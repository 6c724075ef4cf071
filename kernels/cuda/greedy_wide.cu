// greedy_pick for problems that are too wide for one block (stage 2 over thousands of rows): blocks share the
// rows, and one launch a pick joins what they found. No block waits for another and none for the host: every
// block reduces the few candidates that the launch before has left, which is cheaper than a launch of its
// own, comes to the same pick, takes it into the state of its own rows and leaves its best of those.
//
// Per pick: 4 n bytes of gram and 8 n of state, spread over n / 1024 multiprocessors, and the time of a
// launch (some 2 us). kDeterminant reads 4 t n bytes more for pick t, so its rows are spread over four times
// as many blocks. kFacility would need a launch per gain that it looks at and stays with one block.
#include <type_traits>

#include "kernels/cuda/greedy_determinant.cuh"

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

// What a launch leaves for the next; two of them take turns. Value is double for kDeterminant.
template <typename Value>
struct Handover {
  Progress progress;
  BestOf<Value> best[kMostBlocks];
};
static_assert(2 * sizeof(Handover<double>) <= kWideScratch);

struct Wide {
  GreedyProblem p;
  GreedyRule rule;
  int32_t n;
  int32_t* picks;
  float* scores;
  int32_t* done;
};

// State of row i before the first pick, and the row as a candidate for it: by total, or by what an earlier
// call has left.
__device__ __forceinline__ BestOf<double> start_row(const Wide& w, int t, int i, const BestOf<double>&) {
  const DeterminantRow row = load_row(w.p, max(t, 0), i);
  if (t <= 0) store_row(w.p, i, row);
  return candidate(row, i);
}
__device__ __forceinline__ Best start_row(const Wide& w, int t, int i, const Best& none) {
  float* state = row_of<float>(w.p.state, 0);
  if (t > 0) return {state[i], i};
  state[i] = w.rule == GreedyRule::kMaxSum ? 0.0f : -__int_as_float(0x7f800000);
  return w.p.first < 0 ? Best{w.p.total[i], i} : none;
}

template <typename Value>
__global__ void __launch_bounds__(kThreads)
    wide_start_kernel(const __grid_constant__ Wide w, Handover<Value>* out) {
  GPU_SHARED(BestOf<Value>, slots, [kWarps]);
  const int t = *w.done;
  BestOf<Value> best = nothing<Value>();
  for (auto i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x); i < w.n;
       i += static_cast<int>(gridDim.x) * kThreads) {
    best = smaller(best, start_row(w, t, i, nothing<Value>()));
  }
  best = block_smallest(best, slots);
  if (threadIdx.x != 0) return;
  out->best[blockIdx.x] = best;
  if (blockIdx.x == 0) {
    out->progress = {max(t, 0), t >= 0 && t < w.p.count ? 1 : 0, t < 0 ? Found::kBroken : Found::kRow};
  }
}

// Pick t, which every block finds for itself, and its row of gram; null where the picks end.
template <typename Value>
struct NextPick {
  BestOf<Value> pick;
  int32_t t;
  const float* g;
};

template <typename Value>
__device__ __forceinline__ NextPick<Value> next_pick(const Wide& w, const Handover<Value>* in,
                                                     Handover<Value>* out, BestOf<Value>* slots) {
  const bool first_block = blockIdx.x == 0 && threadIdx.x == 0;
  Progress progress = in->progress;
  const auto tid = static_cast<int>(threadIdx.x);
  const bool candidate = tid < static_cast<int>(gridDim.x) && progress.running != 0;
  BestOf<Value> pick = block_smallest(candidate ? in->best[tid] : nothing<Value>(), slots);
  if constexpr (std::is_same_v<Value, float>) {
    if (progress.t == 0 && w.p.first >= 0) {
      pick = {w.p.total == nullptr ? 0.0f : w.p.total[w.p.first], w.p.first};
    }
    const bool stops = w.rule == GreedyRule::kMaxMin && progress.t > 0 && pick.value >= w.p.stop_at;
    if (stops) progress.running = 0;
  }
  const float* g = nullptr;
  if (progress.running != 0) {
    progress.found = pick.index == kNone ? Found::kBroken : gram_row(w.p, pick.index, &g);
    if (progress.found != Found::kRow) progress.running = 0;
  }
  if (progress.running == 0) {
    if (first_block) out->progress = progress;
    return {pick, progress.t, nullptr};
  }
  if (first_block) {
    w.picks[progress.t] = pick.index;
    if (w.scores != nullptr) w.scores[progress.t] = score_of(pick);
    out->progress = {progress.t + 1, progress.t + 1 < w.p.count ? 1 : 0, Found::kRow};
  }
  return {pick, progress.t, g};
}

__global__ void __launch_bounds__(kThreads)
    wide_pick_kernel(const __grid_constant__ Wide w, const Handover<float>* in, Handover<float>* out) {
  GPU_SHARED(Best, slots, [kWarps]);
  const NextPick<float> next = next_pick(w, in, out, slots);
  if (next.g == nullptr) return;
  float* state = row_of<float>(w.p.state, 0);
  Best best = nothing();
  for (auto i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x); i < w.n;
       i += static_cast<int>(gridDim.x) * kThreads) {
    float v = i == next.pick.index ? __int_as_float(0x7f800000) : state[i];
    v = w.rule == GreedyRule::kMaxSum ? v + next.g[i] : fmaxf(v, next.g[i]);
    state[i] = v;
    best = smaller(best, {v, i});
  }
  best = block_smallest(best, slots);
  if (threadIdx.x == 0) out->best[blockIdx.x] = best;
}

__global__ void __launch_bounds__(kThreads)
    wide_determinant_kernel(const __grid_constant__ Wide w, const Handover<double>* in,
                            Handover<double>* out) {
  GPU_SHARED(BestOf<double>, slots, [kWarps]);
  GPU_SHARED(float, staged, [kStaged]);
  const NextPick<double> next = next_pick(w, in, out, slots);
  if (next.g == nullptr) return;
  const bool gains = gain_of(next.pick) > 0.0;
  BestOf<double> best = nothing<double>();
  // By blocks, because factor_dot wants all threads.
  for (auto first = static_cast<int>(blockIdx.x) * kThreads; first < w.n;
       first += static_cast<int>(gridDim.x) * kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    const bool own = i < w.n;
    DeterminantRow row{};
    if (own) row = load_row(w.p, 1, i);
    float dot = 0.0f;
    if (gains) dot = factor_dot(w.p, next.t, i, own && row.gain > 0.0, next.pick.index, staged);
    if (!own) continue;
    take_pick(w.p, next.t, next.pick, next.g, dot, i, row);
    store_row(w.p, i, row);
    best = smaller(best, candidate(row, i));
  }
  best = block_smallest(best, slots);
  if (threadIdx.x == 0) out->best[blockIdx.x] = best;
}

// A number that breaks the contract: no further picks, and nobody waits for them.
__global__ void __launch_bounds__(kThreads)
    wide_end_kernel(const __grid_constant__ Wide w, const Progress* in) {
  const bool broken = in->found == Found::kBroken;
  if (*w.done >= w.p.count) return;
  __syncthreads();  // done is written below
  for (int i = in->t + static_cast<int>(threadIdx.x); broken && i < w.p.count; i += kThreads) {
    w.picks[i] = -1;
  }
  if (threadIdx.x == 0) *w.done = broken ? w.p.count : in->t;
}

template <typename Value>
Status launch_picks(const ExecContext& ctx, const Wide& w, int64_t rows_per_block,
                    void (*pick_kernel)(Wide, const Handover<Value>*, Handover<Value>*), void* scratch) {
  auto* handover = static_cast<Handover<Value>*>(scratch);
  const int64_t wanted = gpu::ceil_div(w.n, rows_per_block);
  const dim3 grid(static_cast<unsigned>(wanted < kMostBlocks ? wanted : kMostBlocks));
  Status s = gpu::launch(wide_start_kernel<Value>, grid, dim3(kThreads), 0, ctx.stream, w, handover);
  for (int32_t i = 0; i < w.p.count && s == Status::kOk; ++i) {
    s = gpu::launch(pick_kernel, grid, dim3(kThreads), 0, ctx.stream, w, handover + i % 2,
                    handover + (i + 1) % 2);
  }
  if (s != Status::kOk) return s;
  return gpu::launch(wide_end_kernel, dim3(1), dim3(kThreads), 0, ctx.stream, w,
                     &handover[w.p.count % 2].progress);
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
  if (w.rule == GreedyRule::kDeterminant) {
    return launch_picks<double>(ctx, w, kThreads, wide_determinant_kernel, scratch);
  }
  return launch_picks<float>(ctx, w, kRowsPerBlock, wide_pick_kernel, scratch);
}

}  // namespace trimtok::cuda
