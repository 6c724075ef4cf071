// The proof that isolated.h proves something: what it must catch is done here on purpose.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "engine/core/isolated.h"

namespace trimtok::test {
namespace {

constexpr size_t kLimit = size_t{64} << 20;

// Does `call` end a process of its own with a segmentation fault?
template <typename Call>
bool faults(Call call) {
  const pid_t child = fork();
  if (child == 0) {
    const rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    std::signal(SIGSEGV, SIG_DFL);
    call();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

void host_access(Backend* backend) {
  const Matrix m = backend->arena().matrix(4, 8);
  auto* values = static_cast<float*>(m.data);
  const auto read = [&] { return *static_cast<volatile float*>(values); };
  TT_EXPECT(faults([&] { (void)read(); }));
  TT_EXPECT(faults([&] { *static_cast<volatile float*>(values) = 1.0f; }));
  // After an op and after a copy the door is shut again.
  const std::vector<float> ones(32, 1.0f);
  const float* x = backend->upload(std::span(ones));
  backend->add({m, {x, Dtype::kF32, 4, 8, 32}, {x, Dtype::kF32, 4, 8, 32}}, "test");
  TT_EXPECT(faults([&] { (void)read(); }));
  Buffer copy;
  const auto* got = static_cast<const float*>(backend->read(m, copy).data);
  for (int i = 0; i < 32; ++i) TT_EXPECT(got[i] == 2.0f);
  TT_EXPECT(faults([&] { (void)read(); }));
  TT_EXPECT(!faults([&] { (void)got[0]; }));
}

void host_pointers() {
  const auto backend = Backend::isolated(1, kLimit);
  const Matrix m = backend->arena().matrix(1, 8);
  std::vector<float> host(8, 1.0f);
  const ConstMatrix outside(host.data(), Dtype::kF32, 1, 8, 32);
  const std::string error = error_of([&] { backend->add({m, outside, m}, "test"); });
  TT_EXPECT(error.find("[add] argument x is memory of the host") != std::string::npos);
  const int32_t id = 0;
  TT_EXPECT(!error_of([&] { backend->gather_rows({m, m, &id, 1.0f}, "test"); }).empty());
  TT_EXPECT(!error_of([&] { backend->rms_norm({m, m, host.data(), 1e-5f}, "test"); }).empty());
  GreedyProblem problem;
  problem.gram = outside;
  problem.state = m;
  GreedyPickArgs args;
  args.out = backend->arena().matrix(1, 1, Dtype::kI32);
  args.problems = &problem;
  TT_EXPECT(error_of([&] { backend->greedy_pick(args, "test"); }).find("gram") != std::string::npos);
}

// Memory that was given back holds NaN, so that whoever still reads it is seen.
void stale_memory() {
  const auto backend = Backend::isolated(1, kLimit);
  const std::vector<float> ones(8, 1.0f);
  const std::byte* at = nullptr;
  {
    Buffer buffer = backend->buffer(32);
    buffer.write(ones.data(), 32);
    at = buffer.data();
  }
  Buffer copy;
  const auto* got = static_cast<const float*>(backend->read({at, Dtype::kF32, 1, 8, 32}, copy).data);
  for (int i = 0; i < 8; ++i) TT_EXPECT(std::isnan(got[i]));
}

void out_of_memory() {
  const auto backend = Backend::isolated(1, kLimit);
  const std::string error = error_of([&] { backend->arena().matrix(1 << 20, 1024); });
  TT_EXPECT(error.find("cannot allocate 4096.0 MiB on isolated") != std::string::npos);
  TT_EXPECT(backend->arena().matrix(8, 8).data != nullptr);
}

// Device memory proper, or what stands for it where the host executes the kernels.
void cuda_access() {
  setenv("TRIMTOK_CUDA_HOST_ISOLATED", "1", 1);
  std::string reason;
  const auto backend = Backend::cuda(1, reason);
  if (backend == nullptr) {
    std::printf("SKIPPED cuda isolation: %s\n", reason.c_str());
    return;
  }
  host_access(backend.get());
}

}  // namespace

void check_isolation() {
  host_access(Backend::isolated(1, kLimit).get());
  cuda_access();
  host_pointers();
  stale_memory();
  out_of_memory();
}

}  // namespace trimtok::test
