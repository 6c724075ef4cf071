#include "engine/runtime/residency.h"

#include <exception>
#include <system_error>
#include <utility>

#include "engine/core/error.h"
#include "engine/core/host_memory.h"

namespace trimtok {
namespace {

// Below this the tables of small pages cost nothing that could be measured.
constexpr uint64_t kLeastBytes = uint64_t{64} << 20;

// Why the files stay where they are; empty: they need not.
std::string reason_to_stay(uint64_t bytes) {
  if (bytes < kLeastBytes) return "they are small";
  if (!has_huge_pages()) return "this system has no huge pages";
  const size_t available = available_host_memory();
  if (bytes > available / 2) {
    return format("they take %llu MiB, more than half of the %zu MiB that are available",
                  static_cast<unsigned long long>(bytes >> 20), available >> 20);
  }
  return "";
}

}  // namespace

WeightMover::WeightMover(Files files, Residency residency) : files_(std::move(files)) {
  if (residency == Residency::kMapped) return;
  uint64_t bytes = 0;
  for (const auto& file : files_) {
    n_pieces_ += file->n_pieces();
    bytes += file->file_bytes();
  }
  if (residency == Residency::kMemory) {
    move_all();
    return;
  }
  note_ = reason_to_stay(bytes);
  if (!note_.empty()) {
    note_ = "the weights stay mapped: " + note_;
    return;
  }
  running_ = true;
  try {
    thread_ = std::thread([this] {
      try {
        move_all();
      } catch (const std::exception& error) {
        const std::lock_guard lock(mutex_);
        note_ = std::string("a part of the weights stays mapped: ") + error.what();
      }
      running_ = false;
    });
  } catch (const std::system_error& error) {
    running_ = false;
    note_ = std::string("the weights stay mapped: no thread to move them, ") + error.what();
  }
}

WeightMover::~WeightMover() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void WeightMover::move_all() {
  for (const auto& file : files_) {
    for (size_t i = 0; i < file->n_pieces() && !stop_; ++i) {
      file->replace_piece(i);
      ++n_moved_;
    }
  }
}

const char* WeightMover::state() const {
  if (running_) return "moving";
  return n_pieces_ > 0 && n_moved_ == n_pieces_ ? "memory" : "mapped";
}

std::string WeightMover::note() const {
  const std::lock_guard lock(mutex_);
  return note_;
}

}  // namespace trimtok
