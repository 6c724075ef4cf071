// One plain argument struct per op of ops.def, the same on every backend.
//
// Letters: T rows (tokens, patches), D width, N outputs, K inputs, S keys, H query heads,
// G key/value heads, E head_dim, R rotated dimensions, P patches, C channels.
// Matrices are f32 unless the contract says otherwise; "any" is every kWeight dtype of dtypes.def.
// T == 0 and S == 0 are legal and do nothing (an attention row that sees no key becomes zeros).
// Output may alias an input only where the contract says so.
//
// On a device (the CUDA table) every pointer in these structs points to device memory: matrices, vectors,
// ids, begin, end, slot, total, done. One exception: `problems` is an array on the host, read before the call
// returns; the pointers inside it are the device's. The host cannot look into device arrays before a launch,
// so a number in them that breaks the contract is not kBadArgument there: the output rows that it concerns
// become NaN, a row that goes to a place outside is left out, a slot outside gram or a done below 0 ends its
// problem (the picks that are left become -1, done becomes count), a done above count counts as count, and
// nothing is read or written outside the matrices.
//
// Structs compare by member, pointers by value: equal arguments are the same launch on a device.
#pragma once

#include "trimtok/view.h"

namespace trimtok {

enum class Activation : int32_t {
  kNone,
  kGeluTanh,   // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
  kGeluErf,    // 0.5 x (1 + erf(x / sqrt(2)))
  kQuickGelu,  // x sigmoid(1.702 x)
  kSilu,       // x sigmoid(x)
};

// out[t] = scale * table[ids[t]], dequantised.      out: [T, D]; table: any [V, D]; ids: [T] in [0, V).
struct GatherRowsArgs {
  Matrix out;
  ConstMatrix table;
  const int32_t* ids = nullptr;
  float scale = 1.0f;

  bool operator==(const GatherRowsArgs&) const = default;
};

enum class RopePairs : int32_t {
  kAdjacent,  // (2k, 2k+1): architectures whose converter permuted Q and K (llama)
  kHalves,    // (k, k + R/2): everything else
};

// Rotary position embedding of an input on its way in, as the op rope would have done it to the rows
// before. cos absent: none.      cos, sin: [T, R/2], R <= head_dim.
struct Rotation {
  ConstMatrix cos;
  ConstMatrix sin;
  RopePairs pairs = RopePairs::kHalves;

  bool operator==(const Rotation&) const = default;
};

// out[at[t]] = x[t] in out's dtype, round to nearest even; other rows stay as they are. With a rotation, of
// heads `head_dim` wide, x[t] is rotated first.
// out: F32 | F16 | BF16 | Q8_0 [S, D]; x: [T, D]; at: [T] in [0, S), no row twice; or null: row t, S = T.
// Q8_0, per block of 32, all in f32: s = max|x| / 127, d = f16(s), q = x * (1 / s) to nearest even; q = 0
// when d is 0. A block with a NaN or infinity, or with d beyond f16, becomes d = NaN and q = 1: never silent.
struct ConvertRowsArgs {
  Matrix out;
  ConstMatrix x;
  const int32_t* at = nullptr;
  Rotation rotation = {};
  int32_t head_dim = 0;  // where there is a rotation: D a multiple of it

  bool operator==(const ConvertRowsArgs&) const = default;
};

// out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight.      out, x: [T, D], out may be x; weight: [D] or null
// (ones).
struct RmsNormArgs {
  Matrix out;
  ConstMatrix x;
  const float* weight = nullptr;
  float eps = 0.0f;

  bool operator==(const RmsNormArgs&) const = default;
};

// out[t] = (x[t] - mean) / sqrt(var + eps) * weight + bias, population variance.
// out, x: [T, D], out may be x; weight, bias: [D], each may be null (ones, zeros).
struct LayerNormArgs {
  Matrix out;
  ConstMatrix x;
  const float* weight = nullptr;
  const float* bias = nullptr;
  float eps = 0.0f;

  bool operator==(const LayerNormArgs&) const = default;
};

// out[t] = x[t] + y[t mod y.rows].      out, x: [T, D], out may be x, or y when Y = T; y: [Y, D];
// T a multiple of Y.
struct AddArgs {
  Matrix out;
  ConstMatrix x;
  ConstMatrix y;

  bool operator==(const AddArgs&) const = default;
};

// out = act(gate) * up.      out, gate, up: [T, D], out may be gate or up.
struct GatedActArgs {
  Matrix out;
  ConstMatrix gate;
  ConstMatrix up;
  Activation act = Activation::kSilu;

  bool operator==(const GatedActArgs&) const = default;
};

// Rotates the first R = 2 * cos.cols elements of every head, in place: for pair (u, v) of row t,
// u' = u cos[t][k] - v sin[t][k], v' = u sin[t][k] + v cos[t][k].
// x: [T, n * head_dim]; cos, sin: [T, R/2], R <= head_dim. Every variant of RoPE (scaling, sections,
// 2-D) is a different cos/sin table, never a different kernel.
struct RopeArgs {
  Matrix x;
  int32_t head_dim = 0;
  ConstMatrix cos;
  ConstMatrix sin;
  RopePairs pairs = RopePairs::kHalves;

  bool operator==(const RopeArgs&) const = default;
};

// im2col for a convolution whose stride is its kernel. Rows in raster order, columns in the order c, y, x;
// pixels beyond the last whole patch are ignored.
// out: [(height/patch)*(width/patch), channels*patch*patch]; pixels: planar [channels, height, width].
struct PatchifyArgs {
  Matrix out;
  const float* pixels = nullptr;
  int32_t channels = 0;
  int32_t height = 0;
  int32_t width = 0;
  int32_t patch = 0;

  bool operator==(const PatchifyArgs&) const = default;
};

// What the operands of a matmul are rounded to before they are multiplied; sums are f32 in any case.
enum class Compute : int32_t {
  kF32,   // nothing is rounded (devices may round to f16: cuda/matmul.cuh)
  kBf16,  // x and w to bf16, to nearest even; numbers and products below 2^-126 may count as zero
  // x to integers of two int8 digits, 128 a + b: per block of 32, s = max|x| / 16256, q = x * (16256 /
  // max|x|) to nearest even; the product is that of s q. A block whose maximum is below 2^-100 becomes zeros,
  // one with a NaN or infinity becomes NaNs. w is not rounded, so it must be of a block format.
  kInt8,
};

// What becomes of the rows of x before anything else is done to them: what rms_norm and layer_norm do.
// weight, bias: [K], each may be null (ones, zeros); bias null where kind is kRms.
struct RowNorm {
  enum class Kind : int32_t { kNone, kRms, kLayer };
  Kind kind = Kind::kNone;
  const float* weight = nullptr;
  const float* bias = nullptr;
  float eps = 0.0f;

  bool operator==(const RowNorm&) const = default;
};

// out = residual + scale * times * act(norm(x) . w^T + bias), whatever w's storage; kUnsupported where this
// table or w's format has no body for `compute`, which rounds norm(x).
// out: [T, N]; x: [T, K]; w: any [N, K]; bias: [N] or null; times (the gate's partner, say): [T, N] or
// absent, may be out; scale: [N] or null (ones); residual: [T, N] or absent, may be out. Not both may be out.
struct MatmulArgs {
  Matrix out;
  ConstMatrix x;
  ConstMatrix w;
  const float* bias = nullptr;
  Activation act = Activation::kNone;
  ConstMatrix residual;
  Compute compute = Compute::kF32;
  RowNorm norm = {};
  ConstMatrix times = {};
  const float* scale = nullptr;

  bool operator==(const MatmulArgs&) const = default;
};

// out[t] = softmax(scale * q[t] . k[begin[t]:end[t]]^T) . v[begin[t]:end[t]] per head; query head h reads
// key/value head h / (H/G). With softcap c > 0 the scaled scores become c tanh(s / c). With a rotation, q is
// rotated first (keys are rotated when they are stored).
// Row t sees the keys of one interval: causal, sliding-window, unmasked, per-image bidirectional and
// block-diagonal masks are all intervals: no mask matrix. Devices may round to f16: cuda/attention.cuh.
// out, q: [T, H*E]; k, v: F32 | F16 | BF16 | Q8_0 [S, G*E], each its own dtype, E a multiple of 32 for Q8_0;
// begin, end: [T], 0 <= begin <= end <= S.
struct AttentionArgs {
  Matrix out;
  ConstMatrix q;
  ConstMatrix k;
  ConstMatrix v;
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
  float scale = 1.0f;
  float softcap = 0.0f;
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
  Rotation rotation = {};

  bool operator==(const AttentionArgs&) const = default;
};

// out[t] = x[t] / norms[t] with norms[t] = |x[t]|; a row of zeros stays zero. Finite for every finite row
// whose norm is; a NaN or an infinity in a row, or a norm beyond f32, leaves norms[t] not finite. out: F32
// [T, D]; x: F32 | F16 [T, D], out may be x; norms: [T] or null.
struct UnitRowsArgs {
  Matrix out;
  ConstMatrix x;
  float* norms = nullptr;

  bool operator==(const UnitRowsArgs&) const = default;
};

// out[b] = sum of weight[t] * x[t] over t in [begin[b], begin[b + 1]).
// out: [B, D]; x: [T, D]; weight: [T] or null (ones); begin: [B + 1], 0 <= begin[b] <= begin[b + 1] <= T.
struct SumRowsArgs {
  Matrix out;
  ConstMatrix x;
  const float* weight = nullptr;
  const int32_t* begin = nullptr;

  bool operator==(const SumRowsArgs&) const = default;
};

// out[i][j] = out[j][i] = x[i] . x[j] for i in [first, last) and j >= i: calls whose ranges cover [0, T) fill
// a matrix that is symmetric to the bit. What lies outside is left alone.      out: [T, T]; x: [T, D].
struct GramArgs {
  Matrix out;
  ConstMatrix x;
  int64_t first = 0;
  int64_t last = 0;

  bool operator==(const GramArgs&) const = default;
};

enum class GreedyRule : int32_t {
  kMaxSum,    // least sum of similarities to the picks
  kMaxMin,    // least similarity to the nearest pick
  kFacility,  // largest sum over j of max(0, similarity to j - similarity of j to its nearest pick)
};

// One set of n rows from which `count` are picked one after another; ties go to the lowest index.
// The first pick is `first`, or, where that is negative, the row with the least `total` (kFacility: the
// largest).
struct GreedyProblem {
  ConstMatrix gram;               // [S, n]; finite
  const int32_t* slot = nullptr;  // [n]: which row of gram belongs to row i, -1: none yet; null: row i itself
  const float* total = nullptr;   // [n]: sum over all j of similarity(i, j); null where first >= 0
  Matrix state;                   // [kFacility ? 3 : 1, n]; kept by the caller between calls
  int32_t count = 0;              // <= n
  int32_t first = -1;
  float stop_at = 3.4e38f;  // kMaxMin: stop when every row that is left has a pick at least this similar
};

// Goes on with every problem until its count, its stop_at, or a row of gram that is needed and missing.
// out: I32 [B, C], row b: the picks of problem b in order, count <= C; scores: [B, C] or absent: the value by
// which each was picked; problems: [B]; done: [B] picks so far, in and out, 0 at the start. Row 0 of state
// then holds, for every row that is left, the sum of its similarities to the picks (kMaxSum) or that to the
// nearest pick, and +infinity for picked rows (kFacility: the nearest for all); the other rows are private.
struct GreedyPickArgs {
  Matrix out;
  Matrix scores;
  const GreedyProblem* problems = nullptr;
  int32_t* done = nullptr;
  GreedyRule rule = GreedyRule::kMaxMin;

  bool operator==(const GreedyPickArgs&) const = default;
};

}  // namespace trimtok
