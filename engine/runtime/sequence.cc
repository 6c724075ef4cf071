#include "engine/runtime/sequence.h"

#include <algorithm>

#include "engine/core/error.h"

namespace trimtok {
namespace {

// The last of at most `chunk` rows from `first` on, moved back or forward so that no row sees past it.
int64_t batch_end(const std::vector<int32_t>& visible_end, int64_t base, int64_t first, int64_t chunk) {
  const int64_t n = static_cast<int64_t>(visible_end.size());
  int64_t end = std::min(n, first + chunk);
  for (int64_t i = first; i < end; ++i)
    end = std::max<int64_t>(end, visible_end[static_cast<size_t>(i)] - base);
  return end;
}

ConstMatrix columns(const ConstMatrix& m, int64_t first, int64_t n) {
  return {static_cast<const float*>(m.data) + first, m.dtype, m.rows, n, m.stride};
}

}  // namespace

Sequence::Sequence(std::shared_ptr<Model> model)
    : model_(std::move(model)),
      cache_(model_->decoder().info().n_layers,
             int64_t{model_->decoder().info().n_kv_heads} * model_->decoder().info().head_dim,
             model_->kv_dtype(), model_->placement()) {
  if (model_->records_steps()) steps_.emplace(model_->backend());
}

void Sequence::prefill(const SequenceRows& rows, int64_t chunk, const Matrix& logits,
                       const RunControl& control) {
  const int64_t n = rows.rows.rows;
  const int64_t base = cache_.length();
  const size_t n_pos = static_cast<size_t>(model_->decoder().info().n_pos);
  const int64_t n_embd = model_->decoder().info().n_embd, n_extra = model_->decoder().info().n_extra;
  const bool wide = n_extra > 0 && rows.rows.cols == n_embd * (1 + n_extra);
  if ((rows.rows.cols != n_embd && !wide) || rows.rows.dtype != Dtype::kF32 ||
      rows.positions.size() != static_cast<size_t>(n) * n_pos ||
      rows.visible_end.size() != static_cast<size_t>(n) || logits.rows > n || chunk < 1) {
    fail(ErrorCode::kInvalidArgument,
         "[prefill] %lld rows of width %lld with %zu positions and %lld logits: need float32 of width "
         "%lld (or with %lld extra slices), %zu positions a row, at most as many logits as rows, chunk >= 1 "
         "(is %lld)",
         static_cast<long long>(n), static_cast<long long>(rows.rows.cols), rows.positions.size(),
         static_cast<long long>(logits.rows), static_cast<long long>(n_embd), static_cast<long long>(n_extra),
         n_pos, static_cast<long long>(chunk));
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t end = rows.visible_end[static_cast<size_t>(i)];
    if (end <= base + i || end > base + n) {
      fail(ErrorCode::kInvalidArgument, "[prefill] row %lld sees up to %lld, must be in [%lld, %lld]",
           static_cast<long long>(i), static_cast<long long>(end), static_cast<long long>(base + i + 1),
           static_cast<long long>(base + n));
    }
  }

  if (base == 0) {
    n_positions_ = rows.n_positions;
    for (const int32_t p : rows.positions) n_positions_ = std::max(n_positions_, p == INT32_MAX ? p : p + 1);
  }
  cache_.reserve(base + n);
  const int64_t first_logit = n - logits.rows;
  try {
    for (int64_t first = 0; first < n;) {
      const int64_t end = batch_end(rows.visible_end, base, first, chunk);
      RowBatch batch;
      const ConstMatrix part = row_range(rows.rows, first, end - first);
      batch.rows = columns(part, 0, n_embd);
      for (int64_t k = 1; wide && k <= n_extra; ++k) batch.extra.push_back(columns(part, k * n_embd, n_embd));
      for (size_t p = 0; p < n_pos; ++p) {
        const auto from = rows.positions.begin() + static_cast<int64_t>(p) * n;
        batch.positions.insert(batch.positions.end(), from + first, from + end);
      }
      batch.n_positions = n_positions_;
      batch.visible_end.assign(rows.visible_end.begin() + first, rows.visible_end.begin() + end);

      const int64_t from = std::max(first, first_logit);
      const Matrix out = row_range(logits, from - first_logit, std::max<int64_t>(0, end - from));
      RunControl inner = control;
      if (control.progress) {
        inner.progress = [&](const char* phase, int64_t done, int64_t total) {
          control.progress(phase, first + (end - first) * done / std::max<int64_t>(total, 1), n);
        };
      }
      std::lock_guard lock(model_->compute_mutex());
      model_->decoder().forward(model_->layers(), batch, cache_, out, inner);
      first = end;
    }
  } catch (...) {
    cache_.truncate(base);
    throw;
  }
}

void Sequence::append(int32_t id, int32_t position, std::span<float> logits, const RunControl& control) {
  const DecoderInfo& info = model_->decoder().info();
  std::lock_guard lock(model_->compute_mutex());
  Backend& backend = model_->backend();
  const Backend::DecodeThreads threads(backend);
  cache_.make_room(1);  // which copies, and so must not be part of a step
  std::optional<StepGraph::Step> step;
  if (steps_) step.emplace(*steps_);
  Arena::Mark mark(backend.arena());
  Matrix row = backend.arena().matrix(1, info.n_embd);
  model_->decoder().embed(model_->layers(), std::span(&id, 1), row);

  RowBatch batch;
  batch.rows = row;
  batch.positions.assign(static_cast<size_t>(info.n_pos), position);
  batch.n_positions = n_positions_;
  batch.visible_end = {static_cast<int32_t>(cache_.length() + 1)};
  const int64_t n = static_cast<int64_t>(logits.size());
  model_->decoder().forward(model_->layers(), batch, cache_, {logits.data(), Dtype::kF32, 1, n, n * 4},
                            control);
  if (step) {
    step->finish();
  } else {
    ++backend.steps().op_by_op;
  }
}

}  // namespace trimtok
