// Runs a step of decoding as one piece of recorded work. A step asks for the same ops as the step before:
// what changes from token to token (its id, its position, its row of the cache) lies in arrays that ops read,
// and a device's ops are launches, whose arguments a recording fixes. So the ops of a step are not run when
// they are asked for but compared with those of the step before. All equal: what the step uploaded goes over
// in one copy, and the recording runs. One differs: the ops before it run now, the others as they come, and
// the recording is dropped. Nothing needs to know which arguments change, and none can be missed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "engine/core/memory.h"
#include "trimtok/args.h"

namespace trimtok {

class Backend;

struct StepCounts {
  std::atomic<int64_t> recorded = 0;  // recordings made
  std::atomic<int64_t> replayed = 0;  // steps that a recording ran
  std::atomic<int64_t> op_by_op = 0;  // other steps
};

// The arguments of an op; index() - 1 is its number in ops.def.
#define TT_OP(name, Args) , Args
using OpArgs = std::variant<std::monostate
#include "trimtok/ops.def"
                            >;
#undef TT_OP

struct OpCall {
  OpArgs args;
  std::string where;
};

// The steps of one sequence on a device. It must not outlive the backend.
class StepGraph {
 public:
  explicit StepGraph(Backend& backend) : backend_(backend) {}
  StepGraph(const StepGraph&) = delete;
  StepGraph& operator=(const StepGraph&) = delete;

  // What the backend is asked for while one of these lives is one step. The host may read results, and may
  // ask for memory, but must not copy on the device.
  class Step {
   public:
    explicit Step(StepGraph& graph);
    ~Step();  // without finish(): the step failed, and the next one starts from nothing
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;
    void finish();

   private:
    StepGraph& graph_;
    bool finished_ = false;
  };

  // For the backend. Whether this op is put off; if not, the backend runs it.
  bool defers(const OpArgs& args, const char* where);
  // Where ops find `host`; nullptr: there is no room in this step.
  const void* upload(const void* host, size_t bytes);
  // Runs what was put off.
  void settle();

 private:
  void begin();
  void forget();
  void run_deferred();
  void copy_uploads();

  Backend& backend_;
  std::vector<OpCall> calls_;  // of the step before; from n_equal_ on, when not comparing, of this step
  size_t n_equal_ = 0;         // ops of this step that were put off
  bool comparing_ = false;
  std::unique_ptr<RecordedWork> work_;  // calls_, with scratch at scratch_; null: not recorded
  const void* scratch_ = nullptr;
  bool replayed_ = false;  // this step
  // What steps upload lies at the same places in every step.
  Buffer uploads_;                 // of the device
  std::vector<std::byte> mirror_;  // of the host, the same size
  size_t n_uploaded_ = 0;          // bytes that this step wanted
};

}  // namespace trimtok
