// mma.sync in its lane layout, with three models of how a tensor core adds up.
//
// exact: in double, rounded once. a100, h100: the block FMA that was measured on those GPUs (Fasi et al.
// 2021; Khattak and Mikaitis, "Accurate Models of NVIDIA Tensor Cores"): products exact, aligned to the
// largest exponent, cut `extra` bits below f32's last place, summed as integers, the result cut. Tolerances
// must hold in all three.
#include <cmath>

#include "kernels/cuda_host/machine.h"

namespace cuda_host {
namespace {

constexpr int kNothing = -1000;  // exponent of zero

double power_of_two(int e) {
  const uint64_t bits = static_cast<uint64_t>(e + 1023) << 52;
  double d;
  std::memcpy(&d, &bits, sizeof(d));
  return d;
}

float from_bits(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}

// A table, because this is most of the work of a GEMM.
const float* f16_values() {
  static float* table = nullptr;
  if (table == nullptr) {
    static float storage[65536];
    for (uint32_t i = 0; i < 65536; ++i) {
      const uint32_t sign = (i & 0x8000u) << 16;
      const uint32_t exponent = i >> 10 & 0x1f;
      const uint32_t fraction = i & 0x3ff;
      if (exponent == 0) {
        storage[i] = from_bits(sign | 0x3f800000u) * (static_cast<float>(fraction) * 0x1p-24f);
      } else if (exponent == 31) {
        storage[i] = from_bits(sign | 0x7f800000u | fraction << 13);
      } else {
        storage[i] = from_bits(sign | (exponent + 112) << 23 | fraction << 13);
      }
    }
    table = storage;
  }
  return table;
}

int exponent_of(float x) {
  return x == 0.0f ? kNothing : std::ilogb(x);
}

float block_fma(const float* a, const float* b, const int* a_exp, const int* b_exp, int n, float c,
                int extra) {
  double products[16];
  double plain = c;
  int largest = c == 0.0f ? kNothing : std::max(std::ilogb(c), -126);
  for (int i = 0; i < n; ++i) {
    products[i] = static_cast<double>(a[i]) * b[i];
    plain += products[i];
    largest = std::max(largest, a_exp[i] + b_exp[i]);
  }
  if (!std::isfinite(plain)) return static_cast<float>(plain);
  if (largest < -900) return 0.0f;
  const int shift = 23 + extra - largest;
  const double scale = power_of_two(shift);
  auto sum = static_cast<int64_t>(static_cast<double>(c) * scale);  // conversion cuts towards zero
  for (int i = 0; i < n; ++i) sum += static_cast<int64_t>(products[i] * scale);
  if (sum == 0) return 0.0f;
  uint64_t magnitude = sum < 0 ? 0 - static_cast<uint64_t>(sum) : static_cast<uint64_t>(sum);
  const int top = 63 - __builtin_clzll(magnitude);
  if (top > 23) magnitude &= ~((uint64_t{1} << (top - 23)) - 1);
  const auto result = static_cast<float>(static_cast<double>(magnitude) * power_of_two(-shift));
  return sum < 0 ? -result : result;
}

// One output: c + sum of a[k] b[k].
float dot(const float* a, const float* b, const int* a_exp, const int* b_exp, int n, float c) {
  switch (options().mma) {
    case MmaModel::exact: {
      double sum = c;
      for (int k = 0; k < n; ++k) sum += static_cast<double>(a[k]) * b[k];
      return static_cast<float>(sum);
    }
    case MmaModel::h100:
      return block_fma(a, b, a_exp, b_exp, n, c, 2);
    case MmaModel::a100:
      for (int k = 0; k < n; k += 8) c = block_fma(a + k, b + k, a_exp + k, b_exp + k, 8, c, 1);
      return c;
  }
  return NAN;
}

// Element (row, k) of A and (k, column) of B of a lane's registers. PTX ISA, "Matrix fragments for mma": with
// g = lane / 4 and t = lane % 4, register i holds row g (+ 8 for odd i of A) and the elements of k that start
// at t * per_register, plus half of K for the second pair of registers.
void multiply_floats(MmaKind kind, const MmaLane* const* lanes) {
  const bool tf32 = kind == MmaKind::tf32;
  const int depth = tf32 ? 8 : 16;
  const int per_register = tf32 ? 1 : 2;
  const float* f16 = f16_values();
  const auto element = [&](uint32_t word, int i) {
    if (tf32) return from_bits(word & 0xffffe000u);
    const uint32_t half = i == 0 ? word & 0xffffu : word >> 16;
    return kind == MmaKind::bf16 ? from_bits(half << 16) : f16[half];
  };
  float a[16][16];
  float b[8][16];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const int g = lane >> 2;
    const int t = (lane & 3) * per_register;
    for (int r = 0; r < 4; ++r) {
      for (int i = 0; i < per_register; ++i) {
        const int k = t + i + (r >> 1) * depth / 2;
        a[g + 8 * (r & 1)][k] = element(lanes[lane]->a[r], i);
        if (r < 2) b[g][t + i + r * depth / 2] = element(lanes[lane]->b[r], i);
      }
    }
  }
  int a_exp[16][16] = {};
  int b_exp[8][16] = {};
  if (options().mma != MmaModel::exact) {
    for (int k = 0; k < depth; ++k) {
      for (int i = 0; i < 16; ++i) a_exp[i][k] = exponent_of(a[i][k]);
      for (int j = 0; j < 8; ++j) b_exp[j][k] = exponent_of(b[j][k]);
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    auto* d = static_cast<float*>(lanes[lane]->d);
    for (int r = 0; r < 4; ++r) {
      const int row = (lane >> 2) + 8 * (r >> 1);
      const int column = (lane & 3) * 2 + (r & 1);
      d[r] = dot(a[row], b[column], a_exp[row], b_exp[column], depth, d[r]);
    }
  }
}

// As in multiply_floats, four elements a register; at half of the depth the second registers are missing.
void multiply_bytes(int depth, const MmaLane* const* lanes) {
  int32_t a[16][32];
  int32_t b[8][32];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const int g = lane >> 2;
    const int t = (lane & 3) * 4;
    for (int r = 0; r < depth / 8; ++r) {
      for (int i = 0; i < 4; ++i) {
        a[g + 8 * (r & 1)][t + i + 16 * (r >> 1)] = static_cast<int8_t>(lanes[lane]->a[r] >> (8 * i));
        if (r < depth / 16) b[g][t + i + 16 * r] = static_cast<int8_t>(lanes[lane]->b[r] >> (8 * i));
      }
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    auto* d = static_cast<int32_t*>(lanes[lane]->d);
    for (int r = 0; r < 4; ++r) {
      const int row = (lane >> 2) + 8 * (r >> 1);
      const int column = (lane & 3) * 2 + (r & 1);
      auto sum = static_cast<uint32_t>(d[r]);
      for (int k = 0; k < depth; ++k) sum += static_cast<uint32_t>(a[row][k] * b[column][k]);
      d[r] = static_cast<int32_t>(sum);
    }
  }
}

}  // namespace

void multiply(MmaKind kind, const MmaLane* const* lanes) {
  if (kind == MmaKind::s8 || kind == MmaKind::s8_k16) {
    multiply_bytes(kind == MmaKind::s8 ? 32 : 16, lanes);
  } else {
    multiply_floats(kind, lanes);
  }
}

}  // namespace cuda_host
