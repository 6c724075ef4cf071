// What the bodies of every table share: argument checks and the thread hand-out. Everything here is an
// external function compiled for the baseline, so ISA files may call it safely.
#pragma once

#include "trimtok/kernels.h"

namespace trimtok {

// kOk, or kBadArgument when the arguments break the op's contract in args.h. Every body calls its check
// first, so that all tables reject the same arguments and touch nothing when they do: CPU bodies _args;
// CUDA bodies _shapes, which reads no array that lies on the device (see args.h, "On a device").
// Aliasing is the caller's duty: partial overlap of rows cannot be told cheaply from interleaved views.
#define TT_OP(name, Args)                    \
  Status check_##name##_shapes(const Args&); \
  Status check_##name##_args(const Args&);
#include "trimtok/ops.def"
#undef TT_OP

// ctx.parallel, or a plain loop (thread 0) where the context has none.
void run_tasks(const ExecContext& ctx, int64_t n_tasks, ExecContext::Task task, void* arg);

// ctx.scratch, or nullptr where the context has none: report kOutOfMemory then.
void* get_scratch(const ExecContext& ctx, size_t bytes);

}  // namespace trimtok
