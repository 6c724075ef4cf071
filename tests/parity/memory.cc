#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "harness.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::parity {
namespace {

constexpr size_t kGuardBytes = 256;

int64_t alignment_of(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kI32    ? 4
         : dtype == Dtype::kF16 || dtype == Dtype::kBF16 ? 2
                                                         : 1;
}

// Mostly what quantisers write; sometimes zero, negative, or a subnormal of f16.
F16Bits random_scale(Rng& rng, float magnitude) {
  switch (rng.below(32)) {
    case 0:
      return 0;
    case 1:
      return static_cast<F16Bits>(1 + rng.below(1023));
    default:
      return f16_from_f32(rng.uniform(-magnitude, magnitude));
  }
}

template <typename Block>
void set_scale(Block* block, Rng& rng) {
  block->d = random_scale(rng, 0.05f);
}

void set_scales(Dtype dtype, char* p, Rng& rng) {
  switch (dtype) {
#define TT_D(name)                                     \
  case Dtype::k##name:                                 \
    set_scale(reinterpret_cast<Block##name*>(p), rng); \
    return;
#define TT_D_AND(name, field)                                            \
  case Dtype::k##name:                                                   \
    set_scale(reinterpret_cast<Block##name*>(p), rng);                   \
    reinterpret_cast<Block##name*>(p)->field = random_scale(rng, 0.05f); \
    return;
    // clang-format off
    TT_D(Q4_0)
    TT_D(Q5_0)
    TT_D(Q8_0)
    TT_D(IQ4_NL)
    TT_D(Q3_K)
    TT_D(Q6_K)
    TT_D(IQ4_XS)
    TT_D_AND(Q4_1, m)
    TT_D_AND(Q5_1, m)
    TT_D_AND(Q2_K, dmin)
    TT_D_AND(Q4_K, dmin)
    TT_D_AND(Q5_K, dmin)
    // clang-format on
#undef TT_D
#undef TT_D_AND
    case Dtype::kMXFP4:
      reinterpret_cast<BlockMXFP4*>(p)->e =
          static_cast<E8m0Bits>(rng.below(16) == 0 ? rng.below(4) : 118 + rng.below(12));
      return;
    default:
      std::fprintf(stderr, "parity: no random blocks for dtype %d\n", static_cast<int>(dtype));
      std::exit(3);
  }
}

}  // namespace

uint64_t Rng::next() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

float Rng::uniform(float low, float high) {
  return low + (high - low) * static_cast<float>(next() >> 40) * 0x1p-24f;
}

float Rng::normal() {
  // Sum of uniforms: no library function whose last bit differs between platforms.
  float sum = 0.0f;
  for (int i = 0; i < 4; ++i) sum += uniform(-0.866f, 0.866f);
  return sum;
}

void Unmap::operator()(char* p) const {
  if (bytes == 0) {
    release_visible(p);
  } else {
    munmap(p, bytes);
  }
}

Tensor::Tensor(Dtype dtype, int64_t rows, int64_t cols, Layout layout)
    : dtype_(dtype), rows_(rows), cols_(cols), layout_(layout) {
  row_bytes_ = trimtok::row_bytes(dtype, cols);
  if (row_bytes_ < 0) {
    std::fprintf(stderr, "parity: a case asks for %lld columns of dtype %d\n", static_cast<long long>(cols),
                 static_cast<int>(dtype));
    std::exit(3);
  }
  stride_ = row_bytes_ + layout.pad * alignment_of(dtype);
  allocate();
}

void Tensor::allocate() {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto extent = static_cast<size_t>(rows_ == 0 ? 0 : (rows_ - 1) * stride_ + row_bytes_);
  const auto offset = static_cast<size_t>(layout_.offset * alignment_of(dtype_));
  size_ = (2 * kGuardBytes + offset + extent + page - 1) / page * page;
  if (visible_is_managed()) {  // no protected page there: what lies behind the cells is only watched
    base_ = std::unique_ptr<char, Unmap>(static_cast<char*>(allocate_visible(size_)), Unmap{0});
    std::memset(base_.get(), 0xff, size_);
    cells_ = base_.get() + (layout_.at_page_end ? size_ - extent : kGuardBytes + offset);
    return;
  }
  void* p = mmap(nullptr, size_ + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(static_cast<char*>(p) + size_, page, PROT_NONE) != 0) {
    std::fprintf(stderr, "parity: no memory for %zu bytes\n", size_);
    std::exit(3);
  }
  base_ = std::unique_ptr<char, Unmap>(static_cast<char*>(p), Unmap{size_ + page});
  std::memset(p, 0xff, size_);
  cells_ = base_.get() + (layout_.at_page_end ? size_ - extent : kGuardBytes + offset);
}

Tensor Tensor::clone() const {
  Tensor copy(dtype_, rows_, cols_, layout_);
  std::memcpy(copy.base_.get(), base_.get(), size_);
  return copy;
}

Matrix Tensor::matrix() const {
  return Matrix{cells_, dtype_, rows_, cols_, stride_};
}

std::vector<float> Tensor::values(int64_t r) const {
  // The reference's own reader: dequantisation has its own independent proof in tests/test_ops.py.
  std::vector<float> out(static_cast<size_t>(cols_));
  if (cols_ == 0) return out;
  if (dtype_ == Dtype::kI32) {
    const auto* numbers = reinterpret_cast<const int32_t*>(row(r));
    for (int64_t c = 0; c < cols_; ++c) out[static_cast<size_t>(c)] = static_cast<float>(numbers[c]);
    return out;
  }
  const auto id = static_cast<int32_t>(r);
  GatherRowsArgs args;
  args.out = Matrix{out.data(), Dtype::kF32, 1, cols_, cols_ * 4};
  args.table = matrix();
  args.ids = &id;
  if (ref::gather_rows(ExecContext{}, args) != Status::kOk) {
    std::fprintf(stderr, "parity: the reference cannot read dtype %d\n", static_cast<int>(dtype_));
    std::exit(3);
  }
  return out;
}

void Tensor::fill_normal(Rng& rng, float scale, float mean) {
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t c = 0; c < cols_; ++c) {
      const float value = mean + scale * rng.normal();
      if (dtype_ == Dtype::kF32) f32(r)[c] = value;
      if (dtype_ == Dtype::kF16) reinterpret_cast<F16Bits*>(row(r))[c] = f16_from_f32(value);
      if (dtype_ == Dtype::kBF16) reinterpret_cast<Bf16Bits*>(row(r))[c] = bf16_from_f32(value);
    }
  }
}

void Tensor::fill_weight(Rng& rng) {
  if (alignment_of(dtype_) > 1) {
    fill_normal(rng, 0.5f);
    return;
  }
  const int64_t block_bytes = dtype_info(dtype_)->block_bytes;
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t i = 0; i < row_bytes_; ++i) row(r)[i] = static_cast<char>(rng.next() & 0xff);
    for (int64_t b = 0; b < row_bytes_ / block_bytes; ++b) set_scales(dtype_, row(r) + b * block_bytes, rng);
  }
}

void Tensor::poison_row(int64_t r) {
  std::memset(row(r), 0xff, static_cast<size_t>(row_bytes_));
}

std::optional<int64_t> Tensor::first_stray_write(const Tensor& before) const {
  for (size_t i = 0; i < size_; ++i) {
    if (base_.get()[i] == before.base_.get()[i]) continue;
    const int64_t at = base_.get() + i - cells_;
    const bool in_cells = at >= 0 && stride_ > 0 && at / stride_ < rows_ && at % stride_ < row_bytes_;
    if (!in_cells) return at;
  }
  return std::nullopt;
}

bool Tensor::same_bytes(const Tensor& other) const {
  return size_ == other.size_ && std::memcmp(base_.get(), other.base_.get(), size_) == 0;
}

}  // namespace trimtok::parity
