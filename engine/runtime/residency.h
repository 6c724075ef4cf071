// Where the weights of a model on the CPU lie: in the mapped files, or in memory of huge pages.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/gguf/file.h"

namespace trimtok {

enum class Residency {
  kAuto,    // mapped at first; copied in the background where there are huge pages and memory to spare
  kMapped,  // stay mapped: pages are shared with other processes, and the system may drop them
  kMemory,  // copied before load() returns, or an error
};

// Replaces mapped files piece by piece while the model computes; results do not change.
class WeightMover {
 public:
  using Files = std::vector<std::shared_ptr<const GgufFile>>;

  WeightMover(Files files, Residency residency);
  ~WeightMover();  // leaves what is not moved yet in the files
  WeightMover(const WeightMover&) = delete;
  WeightMover& operator=(const WeightMover&) = delete;

  // "mapped", "moving", "memory".
  const char* state() const;
  std::string note() const;  // why something stays mapped; empty: nothing to say

 private:
  void move_all();
  Files files_;
  size_t n_pieces_ = 0;
  std::atomic<size_t> n_moved_ = 0;
  std::atomic<bool> running_ = false;
  std::atomic<bool> stop_ = false;
  mutable std::mutex mutex_;
  std::string note_;
  std::thread thread_;
};

}  // namespace trimtok
