#include "engine/core/isolated.h"

#include <sys/mman.h>

#include <cstring>
#include <mutex>

#include "engine/core/block_allocator.h"

namespace trimtok {
namespace {

constexpr unsigned char kPoison = 0xff;  // f32, f16 and bf16: NaN

class IsolatedMemory final : public DeviceMemory {
 public:
  explicit IsolatedMemory(size_t limit)
      : limit_(limit / BlockAllocator::kGranule * BlockAllocator::kGranule),
        blocks_({[this](size_t bytes) { return add_pages(bytes); }, [](void*, size_t) {}}) {
    // Address space only: pages come when they are written to.
    void* p = mmap(nullptr, limit_ + 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) fail(ErrorCode::kOutOfMemory, "[memory] no address space for %zu bytes", limit_);
    base_ = static_cast<std::byte*>(p);
  }
  ~IsolatedMemory() override { munmap(base_, limit_ + 1); }

  const char* name() const noexcept override { return "isolated"; }
  void* allocate(size_t bytes) noexcept override {
    void* p = blocks_.allocate(bytes);
    if (p != nullptr) poison(p, bytes);
    return p;
  }
  void release(void* p, size_t bytes) noexcept override {
    poison(p, bytes);
    blocks_.release(p);
  }
  void write(void* to, const void* from, size_t bytes) override { move(to, from, bytes); }
  void read(void* to, const void* from, size_t bytes) override { move(to, from, bytes); }
  void copy(void* to, const void* from, size_t bytes) override { move(to, from, bytes); }
  size_t available() const override { return limit_ - blocks_.used(); }
  size_t used() const noexcept override { return blocks_.used(); }

  bool holds(const void* p) const { return p >= base_ && p < base_ + limit_; }
  void open() noexcept { protect(+1); }
  void close() noexcept { protect(-1); }

 private:
  // Segments are never given back: the allocator's use of them is what is tested, not the source.
  void* add_pages(size_t bytes) {
    if (bytes > limit_ - top_) return nullptr;
    top_ += bytes;
    return base_ + top_ - bytes;
  }
  void protect(int step) noexcept {
    const std::lock_guard lock(mutex_);
    const bool opens = n_open_ == 0;
    n_open_ += step;
    if (opens) mprotect(base_, limit_, PROT_READ | PROT_WRITE);
    if (n_open_ == 0) mprotect(base_, limit_, PROT_NONE);
  }
  void move(void* to, const void* from, size_t bytes) {
    open();
    std::memmove(to, from, bytes);
    close();
  }
  void poison(void* p, size_t bytes) noexcept {
    open();
    std::memset(p, kPoison, bytes);
    close();
  }

  size_t limit_;
  std::byte* base_ = nullptr;
  size_t top_ = 0;
  std::mutex mutex_;
  int n_open_ = 0;
  BlockAllocator blocks_;
};

// Collects the argument that does not lie in the device's memory.
class PointerCheck {
 public:
  explicit PointerCheck(const IsolatedMemory& memory) : memory_(memory) {}
  const char* stray() const { return stray_; }

  void operator()(const char* name, const void* p) {
    if (p != nullptr && !memory_.holds(p) && stray_ == nullptr) stray_ = name;
  }
  void operator()(const char* name, const ConstMatrix& m) {
    if (m.rows > 0 && m.cols > 0) (*this)(name, m.data);
  }

 private:
  const IsolatedMemory& memory_;
  const char* stray_ = nullptr;
};

// One per argument struct: an op without it does not compile.
#define TT_CHECK(field) check(#field, a.field)
void check_args(PointerCheck& check, const GatherRowsArgs& a) {
  TT_CHECK(out), TT_CHECK(table), TT_CHECK(ids);
}
void check_args(PointerCheck& check, const ConvertRowsArgs& a) {
  TT_CHECK(out), TT_CHECK(x), TT_CHECK(at), TT_CHECK(rotation.cos), TT_CHECK(rotation.sin);
}
void check_args(PointerCheck& check, const RmsNormArgs& a) {
  TT_CHECK(out), TT_CHECK(x), TT_CHECK(weight);
}
void check_args(PointerCheck& check, const LayerNormArgs& a) {
  TT_CHECK(out), TT_CHECK(x), TT_CHECK(weight), TT_CHECK(bias);
}
void check_args(PointerCheck& check, const AddArgs& a) {
  TT_CHECK(out), TT_CHECK(x), TT_CHECK(y);
}
void check_args(PointerCheck& check, const GatedActArgs& a) {
  TT_CHECK(out), TT_CHECK(gate), TT_CHECK(up);
}
void check_args(PointerCheck& check, const RopeArgs& a) {
  TT_CHECK(x), TT_CHECK(cos), TT_CHECK(sin);
}
void check_args(PointerCheck& check, const PatchifyArgs& a) {
  TT_CHECK(out), TT_CHECK(pixels);
}
void check_args(PointerCheck& check, const MatmulArgs& a) {
  TT_CHECK(out), TT_CHECK(x), TT_CHECK(w), TT_CHECK(bias), TT_CHECK(residual);
  TT_CHECK(norm.weight), TT_CHECK(norm.bias), TT_CHECK(times), TT_CHECK(scale);
}
void check_args(PointerCheck& check, const AttentionArgs& a) {
  TT_CHECK(out), TT_CHECK(q), TT_CHECK(k), TT_CHECK(v), TT_CHECK(begin), TT_CHECK(end);
  TT_CHECK(rotation.cos), TT_CHECK(rotation.sin);
}
void check_args(PointerCheck& check, const UnitRowsArgs& a) {
  TT_CHECK(out), TT_CHECK(x), TT_CHECK(norms);
}
void check_args(PointerCheck& check, const SumRowsArgs& a) {
  TT_CHECK(out), TT_CHECK(x), TT_CHECK(weight), TT_CHECK(begin);
}
void check_args(PointerCheck& check, const GramArgs& a) {
  TT_CHECK(out), TT_CHECK(x);
}
void check_args(PointerCheck& check, const GreedyProblem& a) {
  TT_CHECK(gram), TT_CHECK(slot), TT_CHECK(total), TT_CHECK(state);
}
void check_args(PointerCheck& check, const GreedyPickArgs& a) {
  TT_CHECK(out), TT_CHECK(scores), TT_CHECK(done);
  for (int64_t b = 0; b < a.out.rows; ++b) check_args(check, a.problems[b]);
}
#undef TT_CHECK

class IsolatedWatch final : public OpWatch {
 public:
  explicit IsolatedWatch(MemoryPtr memory)
      : owner_(std::move(memory)), memory_(static_cast<IsolatedMemory&>(*owner_)) {}

  void before(Op op, const void* args) override {
    PointerCheck check(memory_);
    switch (op) {
#define TT_OP(name, Args)                               \
  case Op::k_##name:                                    \
    check_args(check, *static_cast<const Args*>(args)); \
    break;
#include "trimtok/ops.def"
#undef TT_OP
      case Op::kCount:
        break;
    }
    if (check.stray() != nullptr) {
      fail(ErrorCode::kInternal, "[%s] argument %s is memory of the host, must be the device's", op_name(op),
           check.stray());
    }
    memory_.open();
  }
  void after(Op) noexcept override {
    memory_.close();
  }

 private:
  MemoryPtr owner_;
  IsolatedMemory& memory_;
};

}  // namespace

MemoryPtr isolated_memory(size_t limit) {
  return std::make_shared<IsolatedMemory>(limit);
}

std::unique_ptr<OpWatch> isolated_watch(const MemoryPtr& memory) {
  return std::make_unique<IsolatedWatch>(memory);
}

}  // namespace trimtok
