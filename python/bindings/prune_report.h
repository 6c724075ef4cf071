// The pruner's report as Python sees it, for _core.prune and for Generation.result().
#pragma once

#include <pybind11/pybind11.h>

#include "engine/prune/prune.h"

namespace trimtok::python {

// Keys: kept (int32 arrays), n_rows, budgets, d_intra (lists over the pictures), d_intra_mean, d_inter,
// alpha, stage1_budget, pool_size (None where there is no such thing), n_total, budget, selector, settings
// (dict), seconds (dict stage -> float), reason (None when pruning ran), pooled (float32 [kept, d] arrays or
// None).
pybind11::dict to_dict(const PruneResult& result);

// Fills PruneOptions from a dict: exactly one of keep, max_tokens, coverage; and any of selector, stage1,
// d_inter, align, alpha, pool, pareto_weight, inter_weight, seed. Other keys are refused. Throws
// kInvalidArgument.
PruneOptions prune_options(const pybind11::dict& options);

}  // namespace trimtok::python
