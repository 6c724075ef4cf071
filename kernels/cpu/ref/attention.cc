// Reference attention: scores, softmax and weighted sum of one row and head at a time, all in double.
#include <algorithm>

#include "kernels/cpu/ref/common.h"

namespace trimtok::ref {
namespace {

// Scratch of one thread: one key/value head as f32 [S, E] twice, a query [E], the scores of one row [S].
struct HeadScratch {
  float* k;
  float* v;
  float* q;
  double* scores;
};

void load_head(const AttentionArgs& a, const ConstMatrix& m, int64_t kv_head, float* out) {
  const int64_t offset = row_bytes(m.dtype, kv_head * a.head_dim);
  for (int64_t s = 0; s < m.rows; ++s) {
    dequantize_row(m.dtype, row<char>(m, s) + offset, a.head_dim, out + s * a.head_dim);
  }
}

void attend(const AttentionArgs& a, int64_t t, int64_t head, const HeadScratch& scratch) {
  const int64_t head_dim = a.head_dim;
  auto* out = row<float>(a.out, t) + head * head_dim;
  const int64_t begin = a.begin[t];
  const int64_t end = a.end[t];
  if (begin == end) {
    std::fill(out, out + head_dim, 0.0f);
    return;
  }
  const auto* stored_q = row<float>(a.q, t) + head * head_dim;
  float* q = scratch.q;
  std::copy(stored_q, stored_q + head_dim, q);
  if (a.rotation.cos.data != nullptr) rotate_row(a.rotation, t, head_dim, head_dim, q);
  double max_score = -INFINITY;
  for (int64_t s = begin; s < end; ++s) {
    double score = 0.0;
    for (int64_t i = 0; i < head_dim; ++i) score += static_cast<double>(q[i]) * scratch.k[s * head_dim + i];
    score *= a.scale;
    if (a.softcap > 0.0f) score = a.softcap * std::tanh(score / a.softcap);
    scratch.scores[s] = score;
    max_score = std::max(max_score, score);
  }
  double total = 0.0;
  for (int64_t s = begin; s < end; ++s) {
    scratch.scores[s] = std::exp(scratch.scores[s] - max_score);
    total += scratch.scores[s];
  }
  for (int64_t i = 0; i < head_dim; ++i) {
    double sum = 0.0;
    for (int64_t s = begin; s < end; ++s) sum += scratch.scores[s] * scratch.v[s * head_dim + i];
    out[i] = static_cast<float>(sum / total);
  }
}

}  // namespace

Status attention(const ExecContext& ctx, const AttentionArgs& a) {
  if (const Status s = check_attention_args(a); s != Status::kOk) return s;
  if (a.q.rows == 0) return Status::kOk;
  const auto keys = static_cast<size_t>(a.k.rows);
  const size_t head_floats = keys * static_cast<size_t>(a.head_dim);
  // The scores come first so that they are aligned; "+ 1" keeps a request for S == 0 from being empty.
  const size_t floats = 2 * head_floats + static_cast<size_t>(a.head_dim);
  const size_t thread_bytes = (keys + 1) * sizeof(double) + (floats + floats % 2) * sizeof(float);
  auto* scratch = static_cast<char*>(get_scratch(ctx, thread_bytes * static_cast<size_t>(ctx.n_threads)));
  if (scratch == nullptr) return Status::kOutOfMemory;

  const int64_t group = a.n_heads / a.n_kv_heads;
  for_each(ctx, a.n_kv_heads, [&](int64_t kv_head, int32_t thread) {
    HeadScratch mine{};
    mine.scores = reinterpret_cast<double*>(scratch + static_cast<size_t>(thread) * thread_bytes);
    mine.k = reinterpret_cast<float*>(mine.scores + keys + 1);
    mine.v = mine.k + head_floats;
    mine.q = mine.v + head_floats;
    load_head(a, a.k, kv_head, mine.k);
    load_head(a, a.v, kv_head, mine.v);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t t = 0; t < a.q.rows; ++t) attend(a, t, head, mine);
    }
  });
  return Status::kOk;
}

}  // namespace trimtok::ref
