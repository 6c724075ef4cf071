#include "engine/runtime/pruning.h"

#include <algorithm>

#include "engine/core/error.h"
#include "engine/prune/budget.h"

namespace trimtok {

int64_t kv_bytes_per_row(const Model& model) {
  const DecoderInfo& info = model.decoder().info();
  return 2 * info.n_layers * row_bytes(model.kv_dtype(), int64_t{info.n_kv_heads} * info.head_dim);
}

int64_t room_for_picture_rows(const Model& model, const SequencePlan& plan, int64_t max_tokens,
                              int64_t kv_memory_bytes) {
  int64_t rows = model.n_ctx();
  if (kv_memory_bytes > 0) rows = std::min(rows, kv_memory_bytes / kv_bytes_per_row(model));
  return rows - (plan.n_rows - plan.n_visual) - std::min(max_tokens, model.n_ctx());
}

int64_t rows_after_pruning(const SequencePlan& plan, const std::vector<ImagePlan>& plans,
                           const PruneRequest& request) {
  const auto n_nonempty =
      std::count_if(plans.begin(), plans.end(), [](const ImagePlan& one) { return one.n_rows > 0; });
  const BudgetKind kind = request.options.budget;
  int64_t n_visual = n_nonempty;
  if (request.options.selector == Selector::k_none) {
    n_visual = plan.n_visual;
  } else if (kind == BudgetKind::kKeep || kind == BudgetKind::kMaxTokens) {
    // grid_pool keeps whole blocks, so at most the budget; it is checked again when that is known.
    const bool exact = request.options.selector != Selector::k_grid_pool;
    const int64_t budget = total_budget(request.options, plan.n_visual, n_nonempty);
    n_visual = exact ? budget : n_nonempty;
  }
  return plan.n_rows - plan.n_visual + n_visual;
}

PrunedSequence prune_sequence(Model& model, const SequencePlan& plan, const std::vector<ImagePlan>& plans,
                              const std::vector<ConstMatrix>& picture_rows, const PruneRequest& request,
                              int64_t max_tokens, const RunControl& control) {
  const DecoderInfo& info = model.decoder().info();
  PruneInput input;
  for (size_t k = 0; k < picture_rows.size(); ++k) {
    // A row's extra slices follow the main one and are gathered with it; they have no say in the choice.
    ConstMatrix rows = picture_rows[k];
    rows.cols = info.n_embd;
    input.rows.push_back(rows);
    input.grids.push_back(plans[k].grids);
    input.pooled_rows.push_back(picture_rows[k]);
  }
  if (request.options.selector != Selector::k_grid_pool) {
    input.grids.clear();
    input.pooled_rows.clear();
  }

  PruneOptions options = request.options;
  if (options.budget == BudgetKind::kFit) {
    options.max_tokens =
        std::min(plan.n_visual, room_for_picture_rows(model, plan, max_tokens, request.kv_memory_bytes));
    if (options.max_tokens < 1) {
      fail(ErrorCode::kContextOverflow,
           "[pruning] fit=True finds no room for pictures: text (%lld tokens) and answer (max_tokens %lld) "
           "fill "
           "the context of %lld%s; shorten them or raise n_ctx",
           static_cast<long long>(plan.n_rows - plan.n_visual), static_cast<long long>(max_tokens),
           static_cast<long long>(model.n_ctx()), request.kv_memory_bytes > 0 ? " or the memory limit" : "");
    }
  }

  PrunedSequence out;
  {
    std::lock_guard lock(model.compute_mutex());
    Backend& backend = model.backend();
    const Arena::Mark mark(backend.arena());
    const std::vector<int32_t> ids = model.tokenizer().encode(request.text, /*parse_special=*/false);
    if (!ids.empty()) {
      const Matrix text = backend.arena().matrix(static_cast<int64_t>(ids.size()), info.n_embd);
      model.decoder().embed(model.layers(), ids, text);
      input.text = text;
    }
    out.result = prune(backend, input, options, control);
  }
  const bool too_far = int64_t{plan.next_position} + max_tokens > info.n_ctx_train;
  const bool compact = request.positions == PositionChoice::kCompact ||
                       (request.positions == PositionChoice::kAuto && too_far);
  out.positions = compact ? PositionPolicy::kCompact : PositionPolicy::kOriginal;
  out.plan = keep_rows(plan, kept_indices(plan, out.result.report.kept), out.positions);
  return out;
}

}  // namespace trimtok
