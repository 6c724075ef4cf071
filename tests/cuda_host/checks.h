// What both programs of this folder check: the one that executes kernels on the host and the one for a GPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "planted.h"
#include "trimtok/device.h"

namespace trimtok::cuda {

// Prints "ok NAME" or "FAIL NAME: why" and counts the latter.
void report(const char* name, bool ok, const std::string& why);
int failures();

// A device buffer that is filled from the host and read back.
template <typename T>
class Buffer {
 public:
  explicit Buffer(size_t n) : n_(n) { check(allocate(&p_, n * sizeof(T))); }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    check(copy_to_device(p_, values.data(), n_ * sizeof(T), nullptr));
  }
  ~Buffer() { (void)release(p_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return static_cast<T*>(p_); }
  std::vector<T> values() const {
    std::vector<T> out(n_);
    check(copy_to_host(out.data(), p_, n_ * sizeof(T), nullptr));
    check(synchronize(nullptr));
    return out;
  }

 private:
  static void check(Status s) {
    if (s != Status::kOk) report("device buffer", false, last_error());
  }
  void* p_ = nullptr;
  size_t n_;
};

// Everything that gpu.h and device.h offer, against values that are known without them.
void check_features();
void check_tensor_cores(bool bf16);  // bf16 and tf32: from sm_80 on

// One run of a kernel of planted.h on data whose result is known.
struct Outcome {
  std::string problem;  // empty: nothing was seen
  std::vector<float> values;
};
Outcome run_sum(planted::Bug bug);
Outcome run_gemm(planted::Bug bug);
Outcome run_farthest(planted::Bug bug);
Outcome run_bug(planted::Bug bug);  // the one of the three that has it

}  // namespace trimtok::cuda
