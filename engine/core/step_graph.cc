#include "engine/core/step_graph.h"

#include <algorithm>
#include <cstring>

#include "engine/core/backend.h"

namespace trimtok {
namespace {

constexpr size_t kAlignment = 256;             // as matrices of the arena have it
constexpr size_t kUploads = size_t{16} << 10;  // ids, intervals and tables of angles of every model so far

}  // namespace

StepGraph::Step::Step(StepGraph& graph) : graph_(graph) {
  graph_.begin();
}

StepGraph::Step::~Step() {
  graph_.backend_.step_ = nullptr;
  if (!finished_) graph_.forget();
}

void StepGraph::Step::finish() {
  graph_.settle();
  StepCounts& counts = graph_.backend_.steps();
  ++(graph_.replayed_ ? counts.replayed : counts.op_by_op);
  finished_ = true;
}

void StepGraph::begin() {
  if (backend_.step_ != nullptr) fail(ErrorCode::kInternal, "[step] begins inside another one");
  if (mirror_.size() < std::max(kUploads, n_uploaded_)) {
    mirror_.resize(std::max(kUploads, n_uploaded_));
    uploads_ = backend_.buffer(mirror_.size());
  }
  n_equal_ = 0;
  n_uploaded_ = 0;
  comparing_ = true;
  replayed_ = false;
  backend_.step_ = this;
}

void StepGraph::forget() {
  work_ = nullptr;
  calls_.clear();
}

bool StepGraph::defers(const OpArgs& args, const char* where) {
  if (std::holds_alternative<GreedyPickArgs>(args)) {
    fail(ErrorCode::kInternal, "[greedy_pick] %s: cannot be part of a step, it reads an array of the host",
         where);
  }
  if (comparing_) {
    if (n_equal_ < calls_.size() && calls_[n_equal_].args == args) {
      ++n_equal_;
      return true;
    }
    run_deferred();
  }
  work_ = nullptr;
  replayed_ = false;
  calls_.push_back({args, where});
  return false;
}

const void* StepGraph::upload(const void* host, size_t bytes) {
  const size_t at = (n_uploaded_ + kAlignment - 1) / kAlignment * kAlignment;
  if (bytes > mirror_.size() || at > mirror_.size() - bytes) {
    // The arena, where the array goes instead, may hold what ops that were put off have yet to read.
    run_deferred();
    n_uploaded_ = at + bytes;
    return nullptr;
  }
  n_uploaded_ = at + bytes;
  std::memcpy(mirror_.data() + at, host, bytes);
  if (!comparing_) backend_.memory()->write(uploads_.data() + at, host, bytes);
  return uploads_.data() + at;
}

void StepGraph::settle() {
  if (!comparing_) return;
  if (calls_.empty() || n_equal_ < calls_.size()) return run_deferred();
  comparing_ = false;
  copy_uploads();
  DeviceMemory& memory = *backend_.memory();
  // Ops asked for scratch when they were recorded; it moves when another op needs more.
  if (work_ == nullptr || scratch_ != backend_.scratch_.data()) {
    work_ = nullptr;
    work_ = memory.record([this] {
      for (const OpCall& call : calls_) backend_.run(call);
    });
    scratch_ = backend_.scratch_.data();
    ++backend_.steps().recorded;
  }
  memory.last_op = op_name(static_cast<Op>(calls_.back().args.index() - 1));
  work_->launch();
  replayed_ = true;
}

void StepGraph::run_deferred() {
  if (!comparing_) return;
  comparing_ = false;
  work_ = nullptr;
  calls_.resize(n_equal_);
  copy_uploads();
  for (const OpCall& call : calls_) backend_.run(call);
}

void StepGraph::copy_uploads() {
  if (n_uploaded_ > 0) backend_.memory()->write(uploads_.data(), mirror_.data(), n_uploaded_);
}

}  // namespace trimtok
