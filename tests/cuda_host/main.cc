// trimtok_cuda_host_test: proves that the host execution layer computes what a GPU would and sees what it
// claims to see.
//   (no arguments)       every feature, then every planted bug in forward, reverse and random order
//   --bug NAME           one planted bug under the options of the environment; exit code 1 when it is seen
// Prints one line a check: "ok NAME", "FAIL NAME: why", "bug NAME ORDER CAUGHT|missed: how". Exit codes: 0 as
// it should be, 1 not so, 2 usage.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "checks.h"
#include "device_features.h"
#include "kernels/cuda_host/options.h"

namespace trimtok::cuda {
namespace {

using planted::Bug;

// What only the execution layer has: poison, a device of any size, refusals.
void check_layer() {
  DeviceProperties p;
  report("it says that it is no GPU", device_properties(0, &p) == Status::kOk && p.host_execution,
         last_error());
  const Buffer<float> out(64);
  (void)features::unwritten_shared(out.get(), nullptr);
  const std::vector<float> v = out.values();
  bool poison = v[0] == 1.0f;
  for (size_t i = 1; i < 64; ++i) poison &= std::isnan(v[i]);
  report("unwritten shared memory is NaN", poison, "a value is a number");
  const size_t all = cuda_host::options().device_bytes;
  void* too_much = nullptr;
  report("a full device says so", allocate(&too_much, all) == Status::kOutOfMemory, "it was allocated");
  const Buffer<int32_t> x(100);
  std::vector<int32_t> host(200);
  report("a copy beyond a buffer is refused",
         copy_to_host(host.data(), x.get(), 101 * 4, nullptr) != Status::kOk, "it was made");

  const Buffer<int32_t> lanes(32);
  report("2000 threads a block", features::too_many_threads(nullptr) == Status::kDeviceError, "it ran");
  report("156 KiB of shared memory", features::too_much_shared(nullptr) == Status::kDeviceError, "it ran");
  report("warp barriers that never meet", features::split_masks(lanes.get(), nullptr) == Status::kDeviceError,
         "it ran");
}

// Copies in a capture read and write host memory when the graph runs, so it must be page-locked; and a kernel
// that fails there is reported with its own words.
void check_captured_copies() {
  void* stream = nullptr;
  void* graph = nullptr;
  void* pinned = nullptr;
  (void)create_stream(&stream);
  (void)allocate_pinned(&pinned, 8 * sizeof(int32_t));
  auto* values = static_cast<int32_t*>(pinned);
  const Buffer<int32_t> x(8);
  std::vector<int32_t> pageable(8);
  for (const bool up : {false, true}) {
    bool refused = begin_capture(stream) == Status::kOk;
    const Status s = up ? copy_to_device(x.get(), pageable.data(), 32, stream)
                        : copy_to_host(pageable.data(), x.get(), 32, stream);
    refused &= s == Status::kDeviceError && end_capture(stream, &graph) == Status::kDeviceError;
    report(up ? "pageable memory up in a capture" : "pageable memory down in a capture", refused,
           "it was allowed");
  }
  values[0] = 1;
  bool ok = begin_capture(stream) == Status::kOk;
  ok &= copy_to_device(x.get(), values, 32, stream) == Status::kOk;
  ok &= end_capture(stream, &graph) == Status::kOk;
  values[0] = 5;
  ok &= launch_graph(graph, stream) == Status::kOk;
  report("a captured copy reads when it runs", ok && x.values()[0] == 5, last_error());
  (void)destroy_graph(graph);

  const Buffer<float> numbers(std::vector<float>(1013, 1.0f));
  const Buffer<float> partial(static_cast<size_t>(planted::kSumBlocks));
  ok = begin_capture(stream) == Status::kOk;
  ok &= planted::sum(numbers.get(), 1013, partial.get(), partial.get(), stream, Bug::kDivergentBarrier) ==
        Status::kOk;
  ok &= end_capture(stream, &graph) == Status::kOk;
  ok &= launch_graph(graph, stream) == Status::kDeviceError;
  report("a kernel that fails in a graph", ok && std::strstr(last_error(), "divergent") != nullptr,
         last_error());
  (void)destroy_graph(graph);
  (void)release_pinned(pinned);
  (void)destroy_stream(stream);
}

void check_planted() {
  using cuda_host::Order;
  const char* const names[] = {"forward", "reverse", "random"};
  for (int32_t b = 1; b < static_cast<int32_t>(Bug::kCount); ++b) {
    const auto bug = static_cast<Bug>(b);
    std::vector<float> first;
    for (const Order order : {Order::forward, Order::reverse, Order::random}) {
      cuda_host::options().order = order;
      Outcome o = run_bug(bug);
      if (order == Order::forward && o.problem.empty()) first = o.values;
      if (o.problem.empty() && !first.empty() && o.values != first)
        o.problem = "another result than in forward order";
      std::printf("bug %s %s %s: %s\n", planted::name(bug), names[static_cast<int>(order)],
                  o.problem.empty() ? "missed" : "CAUGHT", o.problem.c_str());
    }
  }
  for (const Order order : {Order::forward, Order::reverse, Order::random}) {
    for (const auto model :
         {cuda_host::MmaModel::exact, cuda_host::MmaModel::a100, cuda_host::MmaModel::h100}) {
      cuda_host::options().order = order;
      cuda_host::options().mma = model;
      for (const auto run : {run_sum, run_gemm, run_farthest}) {
        const Outcome o = run(Bug::kNone);
        report("a sound kernel", o.problem.empty(), o.problem);
      }
    }
  }
}

int run_one(const char* name) {
  for (int32_t b = 0; b < static_cast<int32_t>(Bug::kCount); ++b) {
    const auto bug = static_cast<Bug>(b);
    if (std::strcmp(name, planted::name(bug)) != 0) continue;
    Outcome o = run_bug(bug);
    if (bug == Bug::kNone) {
      for (const auto run : {run_gemm, run_farthest}) {
        if (o.problem.empty()) o = run(bug);
      }
    }
    std::printf("bug %s %s: %s\n", name, o.problem.empty() ? "missed" : "CAUGHT", o.problem.c_str());
    return o.problem.empty() ? 0 : 1;
  }
  return 2;
}

int run_all() {
  check_features();
  for (const auto model :
       {cuda_host::MmaModel::exact, cuda_host::MmaModel::a100, cuda_host::MmaModel::h100}) {
    cuda_host::options().mma = model;
    check_tensor_cores(true);
  }
  cuda_host::options().mma = cuda_host::MmaModel::exact;
  check_layer();
  check_captured_copies();
  check_planted();
  std::printf("cuda_host: %d failures\n", failures());
  return failures() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace trimtok::cuda

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc == 1) return trimtok::cuda::run_all();
  if (argc == 3 && std::strcmp(argv[1], "--bug") == 0) return trimtok::cuda::run_one(argv[2]);
  std::fprintf(stderr, "usage: trimtok_cuda_host_test [--bug NAME]\n");
  return 2;
}
