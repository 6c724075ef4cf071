// greedy_pick: the whole selection of one problem without a word to the host. A block owns a problem from its
// first pick to its last; a thread owns rows threadIdx.x, threadIdx.x + blockDim.x, ... of it: nobody else
// reads or writes their state, so only the argmin and the sum of a gain cross threads.
//
// Row 0 of the state lies in shared memory where it fits (n <= kSharedRows), else in p.state; most problems
// that are wider go to greedy_wide.cu. Per pick: 4 n bytes of gram from L2 or DRAM, 2 n FLOPs,
// one argmin (two barriers). kFacility adds 4 n bytes, 3 n FLOPs and a sum (four barriers) per gain that it
// must compute anew. Bound by latency: some microseconds a pick.
//
// kDeterminant has a kernel of its own, for as many rows as a block has threads: t n multiply-adds for pick
// t, and 4 t n bytes of the factor.
#include "kernels/cuda/greedy_determinant.cuh"

namespace trimtok::cuda {
namespace {

constexpr unsigned kThreads = kMostThreads;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBatch = 24;  // problems of one launch: they travel as kernel parameters

struct Batch {
  GreedyProblem problem[kBatch];
  int32_t row[kBatch];  // of out, scores and done
};

struct Slots {
  Best best[kWarps];
  float sum[kWarps];
};

// Row `sign` * value with the smallest element: -1 finds the largest.
__device__ __forceinline__ Best smallest_of(const float* values, int n, float sign, Slots& slots) {
  Best best = nothing();
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    best = smaller(best, {sign * values[i], i});
  }
  return block_smallest(best, slots.best);
}

// kFacility: the candidate with the largest gain, found by bounds that only fall. A gain computed earlier is
// an upper bound, also after rounding, because the order of its sum is fixed. *found says whether the row of
// gram that was needed is there.
__device__ Best facility_next(const GreedyProblem& p, const float* best, int t, int n, Slots& slots,
                              Found* found) {
  float* bound = row_of<float>(p.state, 1);
  float* round = row_of<float>(p.state, 2);
  while (true) {
    const Best top = smallest_of(bound, n, -1.0f, slots);
    const float* g = nullptr;
    *found = top.index == kNone ? Found::kBroken : gram_row(p, top.index, &g);
    if (*found != Found::kRow) return top;
    // Fresh means that it was computed in this round: no other candidate reaches it, or not at a lower index.
    if (round[top.index] == static_cast<float>(t)) return {-top.value, top.index};
    float gain = 0.0f;
    for (int j = static_cast<int>(threadIdx.x); j < n; j += static_cast<int>(blockDim.x)) {
      gain += fmaxf(g[j] - best[j], 0.0f);
    }
    gain = block_sum(gain, slots.sum);  // its barriers also end everybody's look at round[top.index]
    if (top.index % blockDim.x == threadIdx.x) {
      bound[top.index] = gain;
      round[top.index] = static_cast<float>(t);
    }
    __syncthreads();  // round[] is looked at by all
  }
}

// State before the first pick, or as the call before left it.
__device__ __forceinline__ void start_state(const GreedyProblem& p, GreedyRule rule, int t, int n,
                                            float* state) {
  const float infinity = __int_as_float(0x7f800000);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    if (t > 0) {
      state[i] = row_of<float>(p.state, 0)[i];
      continue;
    }
    state[i] = rule == GreedyRule::kMaxSum ? 0.0f : -infinity;
    if (rule != GreedyRule::kFacility) continue;
    row_of<float>(p.state, 1)[i] = infinity;
    row_of<float>(p.state, 2)[i] = 0.0f;
  }
}

// The first pick and its value.
__device__ __forceinline__ Best first_pick(const GreedyProblem& p, GreedyRule rule, int n, Slots& slots) {
  if (p.first >= 0) return {p.total == nullptr ? 0.0f : p.total[p.first], p.first};
  const float sign = rule == GreedyRule::kFacility ? -1.0f : 1.0f;
  const Best best = smallest_of(p.total, n, sign, slots);
  return {sign * best.value, best.index};
}

// Takes `pick`, whose row of gram is g, into the state; returns the smallest element of that.
__device__ __forceinline__ Best take(const GreedyProblem& p, GreedyRule rule, int pick, const float* g, int n,
                                     float* state, Slots& slots) {
  const float infinity = __int_as_float(0x7f800000);
  Best low = nothing();
  for (int j = static_cast<int>(threadIdx.x); j < n; j += static_cast<int>(blockDim.x)) {
    float v = state[j];
    if (j == pick && rule == GreedyRule::kFacility) row_of<float>(p.state, 1)[j] = -infinity;
    if (j == pick && rule != GreedyRule::kFacility) v = infinity;
    v = rule == GreedyRule::kMaxSum ? v + g[j] : fmaxf(v, g[j]);
    state[j] = v;
    low = smaller(low, {v, j});
  }
  return block_smallest(low, slots.best);
}

// A number that breaks the contract: no further picks, and nobody waits for them.
__device__ __forceinline__ void end_problem(Found found, int t, int count, int32_t* picks, int32_t* done) {
  const bool broken = found == Found::kBroken;
  for (int i = t + static_cast<int>(threadIdx.x); broken && i < count; i += static_cast<int>(blockDim.x)) {
    picks[i] = -1;
  }
  if (threadIdx.x == 0) *done = broken ? count : t;
}

template <bool kShared>
__global__ void __launch_bounds__(kThreads, 1)
    greedy_kernel(const __grid_constant__ GreedyPickArgs a, const __grid_constant__ Batch batch) {
  GPU_DYN_SHARED(float, shared);
  GPU_SHARED(Slots, slots_array, [1]);
  Slots& slots = slots_array[0];
  const GreedyProblem& p = batch.problem[blockIdx.x];
  const int64_t b = batch.row[blockIdx.x];
  const auto n = static_cast<int>(p.gram.cols);
  const bool facility = a.rule == GreedyRule::kFacility;
  float* state = kShared ? shared : row_of<float>(p.state, 0);
  auto* picks = row_of<int32_t>(a.out, b);
  float* scores = a.scores.data == nullptr ? nullptr : row_of<float>(a.scores, b);
  int t = a.done[b];
  __syncthreads();  // done is written below
  if (t >= p.count) return;
  Found found = t < 0 ? Found::kBroken : Found::kRow;
  t = max(t, 0);

  start_state(p, a.rule, t, n, state);
  __syncthreads();
  Best low{0.0f, kNone};  // of state: the next pick, but for kFacility
  if (t > 0 && !facility) low = smallest_of(state, n, 1.0f, slots);
  for (; found == Found::kRow && t < p.count; ++t) {
    Best pick = low;
    if (t == 0) {
      pick = first_pick(p, a.rule, n, slots);
    } else if (facility) {
      pick = facility_next(p, state, t, n, slots, &found);
      if (found != Found::kRow) break;
    } else if (a.rule == GreedyRule::kMaxMin && pick.value >= p.stop_at) {
      break;
    }
    const float* g = nullptr;
    found = pick.index == kNone ? Found::kBroken : gram_row(p, pick.index, &g);
    if (found != Found::kRow) break;
    if (threadIdx.x == 0) picks[t] = pick.index;
    if (threadIdx.x == 0 && scores != nullptr) scores[t] = pick.value;
    low = take(p, a.rule, pick.index, g, n, state, slots);
  }
  end_problem(found, t, p.count, picks, a.done + b);
  for (int i = static_cast<int>(threadIdx.x); kShared && i < n; i += static_cast<int>(blockDim.x)) {
    row_of<float>(p.state, 0)[i] = state[i];
  }
}

// A thread keeps its row's gain and nearest pick in registers.
__global__ void __launch_bounds__(kThreads, 1)
    determinant_kernel(const __grid_constant__ GreedyPickArgs a, const __grid_constant__ Batch batch) {
  GPU_SHARED(BestOf<double>, slots, [kWarps]);
  GPU_SHARED(float, staged, [kStaged]);
  const GreedyProblem& p = batch.problem[blockIdx.x];
  const int64_t b = batch.row[blockIdx.x];
  const auto i = static_cast<int>(threadIdx.x);
  const bool own = i < static_cast<int>(p.gram.cols);
  auto* picks = row_of<int32_t>(a.out, b);
  int t = a.done[b];
  __syncthreads();  // done is written below
  if (t >= p.count) return;
  Found found = t < 0 ? Found::kBroken : Found::kRow;
  t = max(t, 0);

  DeterminantRow row{};
  if (own) row = load_row(p, t, i);
  BestOf<double> pick = block_smallest(own ? candidate(row, i) : nothing<double>(), slots);
  for (; found == Found::kRow && t < p.count; ++t) {
    const float* g = nullptr;
    found = pick.index == kNone ? Found::kBroken : gram_row(p, pick.index, &g);
    if (found != Found::kRow) break;
    if (i == 0) picks[t] = pick.index;
    if (i == 0 && a.scores.data != nullptr) row_of<float>(a.scores, b)[t] = score_of(pick);
    float dot = 0.0f;
    if (gain_of(pick) > 0.0) dot = factor_dot(p, t, i, own && row.gain > 0.0, pick.index, staged);
    if (own) take_pick(p, t, pick, g, dot, i, row);
    pick = block_smallest(own ? candidate(row, i) : nothing<double>(), slots);
  }
  end_problem(found, t, p.count, picks, a.done + b);
  if (own) store_row(p, i, row);
}

}  // namespace

Status greedy_pick(const ExecContext& ctx, const GreedyPickArgs& a) {
  if (const Status s = check_greedy_pick_shapes(a); s != Status::kOk) return s;
  if (a.out.rows > 0x7fffffff) return gpu::fail(Status::kUnsupported, "greedy_pick: more than 2^31 problems");
  void* scratch = nullptr;  // one problem after the other
  Batch batch{};
  unsigned n_batched = 0;
  int64_t widest = 0;
  const auto launch_batch = [&] {
    const bool in_shared = widest <= kSharedRows;
    const auto shared = in_shared ? static_cast<size_t>(widest) * sizeof(float) : 0;
    const dim3 block(row_threads(widest, kThreads));
    const Status s = a.rule == GreedyRule::kDeterminant
                         ? gpu::launch(determinant_kernel, dim3(n_batched), block, 0, ctx.stream, a, batch)
                         : gpu::launch(in_shared ? greedy_kernel<true> : greedy_kernel<false>,
                                       dim3(n_batched), block, shared, ctx.stream, a, batch);
    n_batched = 0;
    widest = 0;
    return s;
  };
  for (int64_t b = 0; b < a.out.rows; ++b) {
    const int64_t n = a.problems[b].gram.cols;
    if (n > 0x3fffffff) return gpu::fail(Status::kUnsupported, "greedy_pick: more than 2^30 rows");
    if (is_wide(a, b)) {
      if (scratch == nullptr) scratch = get_scratch(ctx, kWideScratch);
      if (scratch == nullptr) return Status::kOutOfMemory;
      if (const Status s = greedy_wide(ctx, a, b, scratch); s != Status::kOk) return s;
      continue;
    }
    batch.problem[n_batched] = a.problems[b];
    batch.row[n_batched++] = static_cast<int32_t>(b);
    widest = n > widest ? n : widest;
    if (n_batched < kBatch) continue;
    if (const Status s = launch_batch(); s != Status::kOk) return s;
  }
  return launch_batch();
}

}  // namespace trimtok::cuda
