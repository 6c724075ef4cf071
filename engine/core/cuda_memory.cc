#include "engine/core/cuda_memory.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "engine/core/block_allocator.h"
#include "engine/core/error.h"
#include "trimtok/device.h"
#include "trimtok/kernels.h"

namespace trimtok {
namespace {

constexpr int32_t kOldest = 75;                    // compute capability
constexpr size_t kStagingBytes = size_t{8} << 20;  // of page-locked memory
constexpr size_t kReserve = size_t{256} << 20;     // left to the driver and to other programs
constexpr size_t kReserveShare = 20;               // or this part of a small device

class StreamMemory final : public CudaMemory {
 public:
  explicit StreamMemory(const cuda::DeviceProperties& properties)
      : properties_(properties),
        blocks_({[](size_t bytes) -> void* {
                   void* p = nullptr;
                   return cuda::allocate(&p, bytes) == Status::kOk ? p : nullptr;
                 },
                 [](void* p, size_t) { cuda::release(p); }}) {
    check(cuda::create_stream(&stream_), "create a stream");
    check(cuda::allocate_pinned(&staging_, kStagingBytes), "allocate page-locked memory");
  }
  ~StreamMemory() override {
    cuda::synchronize(stream_);
    cuda::release_pinned(staging_);
    cuda::destroy_stream(stream_);
  }

  const char* name() const noexcept override { return "cuda"; }
  std::string description() const override { return properties_.name; }
  void* stream() const noexcept override { return stream_; }
  // A block that comes back may still be in use on the stream; whoever gets it next uses it behind that, on
  // the same stream.
  void* allocate(size_t bytes) noexcept override { return blocks_.allocate(bytes); }
  void release(void* p, size_t) noexcept override { blocks_.release(p); }

  // Through page-locked memory, which stays as it is until the device has read it.
  void write(void* to, const void* from, size_t bytes) override {
    const std::lock_guard lock(mutex_);
    while (bytes > 0) {
      if (staged_ == kStagingBytes) wait();
      const size_t n = std::min(bytes, kStagingBytes - staged_);
      std::byte* staging = static_cast<std::byte*>(staging_) + staged_;
      std::memcpy(staging, from, n);
      check(cuda::copy_to_device(to, staging, n, stream_), "copy to the device");
      staged_ += n;
      to = static_cast<std::byte*>(to) + n;
      from = static_cast<const std::byte*>(from) + n;
      bytes -= n;
    }
  }
  void read(void* to, const void* from, size_t bytes) override {
    const std::lock_guard lock(mutex_);
    check(cuda::copy_to_host(to, from, bytes, stream_), "copy to the host");
    wait();
  }
  void copy(void* to, const void* from, size_t bytes) override {
    const std::lock_guard lock(mutex_);
    check(cuda::copy_on_device(to, from, bytes, stream_), "copy on the device");
  }

  // Holds the mutex: what another thread copied meanwhile would become part of the record.
  std::unique_ptr<RecordedWork> record(std::function<void()> work) override {
    const std::lock_guard lock(mutex_);
    check(cuda::begin_capture(stream_), "begin a recording");
    void* graph = nullptr;
    try {
      work();
    } catch (...) {
      cuda::end_capture(stream_, &graph);
      cuda::destroy_graph(graph);
      throw;
    }
    check(cuda::end_capture(stream_, &graph), "record");
    return std::make_unique<Graph>(*this, graph);
  }

  size_t available() const override {
    cuda::DeviceProperties now;
    if (cuda::device_properties(0, &now) != Status::kOk) return 0;
    const auto total = static_cast<size_t>(now.total_bytes);
    const size_t reserve = std::min(kReserve, total / kReserveShare);
    const size_t left = static_cast<size_t>(now.free_bytes) + blocks_.held() - blocks_.used();
    return left > reserve ? left - reserve : 0;
  }
  size_t used() const noexcept override { return blocks_.used(); }

 private:
  class Graph final : public RecordedWork {
   public:
    Graph(StreamMemory& memory, void* graph) : memory_(memory), graph_(graph) {}
    ~Graph() override {
      // It may still run; and waiting would spoil what another thread records.
      const std::lock_guard lock(memory_.mutex_);
      cuda::synchronize(memory_.stream_);
      cuda::destroy_graph(graph_);
    }
    void launch() override { memory_.check(cuda::launch_graph(graph_, memory_.stream_), "run a recording"); }

   private:
    StreamMemory& memory_;
    void* graph_;
  };

  void wait() {
    check(cuda::synchronize(stream_), "run");
    staged_ = 0;
  }
  // A kernel that failed shows here, after ops that came behind it.
  void check(Status status, const char* what) const {
    if (status == Status::kOk) return;
    const char* op = last_op.load();
    fail(status == Status::kOutOfMemory ? ErrorCode::kOutOfMemory : ErrorCode::kInternal,
         "[cuda] %s cannot %s: %s; the last op was %s, the failure may be of one before it", properties_.name,
         what, cuda::last_error(), op != nullptr ? op : "none");
  }

  cuda::DeviceProperties properties_;
  void* stream_ = nullptr;
  std::mutex mutex_;
  void* staging_ = nullptr;
  size_t staged_ = 0;  // bytes of staging_ that the device may not have read yet
  BlockAllocator blocks_;
};

}  // namespace

std::shared_ptr<CudaMemory> cuda_memory(std::string& reason) {
  const char* why = nullptr;
  if (cuda_table(&why) == nullptr || cuda::device_count(&why) == 0) {
    reason = why;
    return nullptr;
  }
  cuda::DeviceProperties properties;
  if (cuda::device_properties(0, &properties) != Status::kOk || cuda::select_device(0) != Status::kOk) {
    reason = cuda::last_error();
    return nullptr;
  }
  if (properties.compute_capability < kOldest) {
    reason = format("%s has compute capability %.1f, expected at least %.1f", properties.name,
                    properties.compute_capability / 10.0, kOldest / 10.0);
    return nullptr;
  }
  return std::make_shared<StreamMemory>(properties);
}

}  // namespace trimtok
