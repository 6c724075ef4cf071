// Block barriers and warp-wide operations. Every lane leaves a pointer to its operands; the last to arrive
// combines them.
#include <algorithm>

#include "kernels/cuda_host/machine.h"

namespace cuda_host {

// ---- block barriers ----

void release_barrier() {
  Machine& m = g_machine;
  Barrier& b = m.barrier;
  if (m.n_exited > 0) {
    set_error("divergent __syncthreads at " + std::string(b.where.file) + ":" + std::to_string(b.where.line) +
              ": " + std::to_string(m.n_exited) + " threads have exited");
  }
  b.result = b.count;
  b.arrived = b.count = 0;
  ++b.round;
  for (int i = 0; i < m.n_threads; ++i) {
    if (m.fibers[i]->state == State::in_barrier) m.fibers[i]->state = State::ready;
  }
}

void barrier_after_exit() {
  const Barrier& b = g_machine.barrier;
  if (b.arrived > 0 && b.arrived == g_machine.n_live) release_barrier();
}

int barrier(int predicate, const char* file, int line) {
  if (g_thread == nullptr) fail("__syncthreads outside a kernel");
  Barrier& b = g_machine.barrier;
  if (b.arrived == 0) {
    b.where = Where{"__syncthreads", file, line};
    b.first = g_thread->linear;
  } else if (!b.where.same_place(file, line)) {
    fail("divergent barrier: this thread is at %s:%d, thread %d waits at %s:%d", file, line, b.first,
         b.where.file, b.where.line);
  }
  b.count += predicate;
  ++b.arrived;
  char* clock = &b.clocks[b.round & 1];
  if (__tsan_release != nullptr) __tsan_release(clock);
  if (b.arrived == g_machine.n_live) {
    release_barrier();
    if (!g_machine.error.empty()) abandon();
  } else {
    wait_here(State::in_barrier, "__syncthreads", file, line);
  }
  if (__tsan_acquire != nullptr) __tsan_acquire(clock);
  return b.result;
}

// ---- warp collectives ----

namespace {

using Combine = void (*)(void* const* operands, unsigned mask);

// Not a struct assignment: the compiler would call memcpy (see machine.h).
void move_collective(const Collective& from, Collective& to) {
  to.mask = from.mask;
  to.arrived = from.arrived;
  to.clock = from.clock;
  to.where.what = from.where.what;
  to.where.file = from.where.file;
  to.where.line = from.where.line;
  for (int i = 0; i < kWarpSize; ++i) {
    void* volatile* slot = to.operand;
    slot[i] = from.operand[i];
  }
}

Collective& join(Warp& w, unsigned mask, const Where& here) {
  const unsigned me = 1u << g_thread->lane;
  if ((mask & me) == 0) {
    fail("%s at %s:%d: mask %08x lacks the calling lane %d", here.what, here.file, here.line, mask,
         g_thread->lane);
  }
  if ((mask & ~w.live) != 0) {
    fail("%s at %s:%d: mask %08x names lanes that do not exist or have exited (live: %08x)", here.what,
         here.file, here.line, mask, w.live);
  }
  for (int i = 0; i < w.n_open; ++i) {
    Collective& c = w.open[i];
    if (c.mask != mask) continue;
    const bool same_operation = c.where.what == here.what || std::strcmp(c.where.what, here.what) == 0;
    if (!same_operation || !c.where.same_place(here.file, here.line)) {
      fail("divergent warp operation: lane %d is at %s %s:%d, other lanes wait at %s %s:%d", g_thread->lane,
           here.what, here.file, here.line, c.where.what, c.where.file, c.where.line);
    }
    return c;
  }
  Collective& c = w.open[w.n_open++];
  c.mask = mask;
  c.arrived = 0;
  c.clock = w.n_made++ & 7;
  c.where = here;
  return c;
}

// Only __syncwarp orders memory; shuffles and the like do not, as in PTX.
void collective(unsigned mask, const char* what, const char* file, int line, void* operand, Combine combine,
                bool orders_memory = false) {
  if (g_thread == nullptr) fail("%s outside a kernel", what);
  Warp& w = g_machine.warps[g_thread->warp];
  Collective& c = join(w, mask, Where{what, file, line});
  c.operand[g_thread->lane] = operand;
  c.arrived |= 1u << g_thread->lane;
  char* clock = &w.clocks[c.clock];
  if (orders_memory && __tsan_release != nullptr) __tsan_release(clock);
  if (c.arrived == mask) {
    if (combine != nullptr) combine(c.operand, mask);
    const int first = g_thread->warp * kWarpSize;
    move_collective(w.open[--w.n_open], c);
    for (int i = 0; i < kWarpSize; ++i) {
      if ((mask >> i & 1) != 0) g_machine.fibers[first + i]->state = State::ready;
    }
  } else {
    wait_here(State::in_warp, what, file, line);
  }
  if (orders_memory && __tsan_acquire != nullptr) __tsan_acquire(clock);
}

template <typename F>
void for_lanes(unsigned mask, F f) {
  for (int i = 0; i < kWarpSize; ++i) {
    if ((mask >> i & 1) != 0) f(i);
  }
}

struct ShuffleOperand {
  uint64_t value;
  uint64_t result;
  int source;
};

struct ReduceOperand {
  int64_t value;
  Reduction kind;
};

struct BallotOperand {
  bool predicate;
  unsigned result;
};

struct PointerOperand {
  const void* mine;
  const void** of_all_lanes;
};

}  // namespace

void warp_barrier(unsigned mask, const char* file, int line) {
  collective(mask, "__syncwarp", file, line, nullptr, nullptr, true);
}

uint64_t shuffle(unsigned mask, uint64_t value, int source_lane, const char* what, const char* file,
                 int line) {
  if ((mask >> source_lane & 1) == 0) {
    fail("%s at %s:%d reads lane %d, which is not in mask %08x", what, file, line, source_lane, mask);
  }
  ShuffleOperand mine{value, 0, source_lane};
  collective(mask, what, file, line, &mine, [](void* const* operands, unsigned lanes) {
    for_lanes(lanes, [&](int i) {
      auto& o = *static_cast<ShuffleOperand*>(operands[i]);
      o.result = static_cast<ShuffleOperand*>(operands[o.source])->value;
    });
  });
  return mine.result;
}

unsigned ballot(unsigned mask, bool predicate, const char* what, const char* file, int line) {
  BallotOperand mine{predicate, 0};
  collective(mask, what, file, line, &mine, [](void* const* operands, unsigned lanes) {
    unsigned votes = 0;
    for_lanes(lanes, [&](int i) {
      if (static_cast<BallotOperand*>(operands[i])->predicate) votes |= 1u << i;
    });
    for_lanes(lanes, [&](int i) { static_cast<BallotOperand*>(operands[i])->result = votes; });
  });
  return mine.result;
}

int64_t reduce(unsigned mask, int64_t value, Reduction kind, const char* file, int line) {
  if (options().sm < 80) fail("__reduce_*_sync at %s:%d: not before sm_80", file, line);
  ReduceOperand mine{value, kind};
  collective(mask, "__reduce_sync", file, line, &mine, [](void* const* operands, unsigned lanes) {
    bool first = true;
    int64_t result = 0;
    for_lanes(lanes, [&](int i) {
      const auto& o = *static_cast<ReduceOperand*>(operands[i]);
      if (first) {
        result = o.value;
      } else if (o.kind == Reduction::add) {
        result += o.value;
      } else {
        result = o.kind == Reduction::max ? std::max(result, o.value) : std::min(result, o.value);
      }
      first = false;
    });
    for_lanes(lanes, [&](int i) { static_cast<ReduceOperand*>(operands[i])->value = result; });
  });
  return mine.value;
}

void gather_rows(const void* mine, const void** of_all_lanes, const char* file, int line) {
  PointerOperand operand{mine, of_all_lanes};
  collective(~0u, "ldmatrix", file, line, &operand, [](void* const* operands, unsigned) {
    for (int i = 0; i < kWarpSize; ++i) {
      for (int j = 0; j < kWarpSize; ++j) {
        static_cast<PointerOperand*>(operands[i])->of_all_lanes[j] =
            static_cast<PointerOperand*>(operands[j])->mine;
      }
    }
  });
}

namespace {

struct MmaOperand {
  MmaKind kind;
  MmaLane lane;
};

}  // namespace

void mma(MmaKind kind, void* d, const uint32_t* a, const uint32_t* b, const char* file, int line) {
  if (options().sm < 80 && (kind == MmaKind::bf16 || kind == MmaKind::tf32)) {
    fail("mma at %s:%d: sm_%d has neither bf16 nor tf32", file, line, options().sm);
  }
  MmaOperand mine{kind, {d, a, b}};
  collective(~0u, "mma.sync", file, line, &mine, [](void* const* operands, unsigned) {
    const MmaLane* lanes[kWarpSize];
    for (int i = 0; i < kWarpSize; ++i) lanes[i] = &static_cast<MmaOperand*>(operands[i])->lane;
    multiply(static_cast<MmaOperand*>(operands[0])->kind, lanes);
  });
}

}  // namespace cuda_host
