// Reference bodies of the ops that work row by row.
#include <algorithm>

#include "kernels/cpu/ref/common.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::ref {
namespace {

void quantize_block_q8_0(const float* x, BlockQ8_0* block) {
  float max_abs = 0.0f;
  bool finite = true;
  for (int32_t i = 0; i < 32; ++i) {
    finite = finite && std::isfinite(x[i]);
    max_abs = std::fmax(max_abs, std::fabs(x[i]));
  }
  const float s = max_abs / 127.0f;
  block->d = f16_from_f32(s);
  if (!finite || !std::isfinite(f32_from_f16(block->d))) {
    block->d = 0x7e00;  // NaN: whoever reads the block sees that something went wrong
    for (int8_t& q : block->qs) q = 1;
    return;
  }
  const float inverse = block->d == 0 ? 0.0f : 1.0f / s;
  for (int32_t i = 0; i < 32; ++i) block->qs[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
}

void convert_row(Dtype dtype, const float* x, int64_t cols, void* out) {
  switch (dtype) {
    case Dtype::kF16:
      for (int64_t i = 0; i < cols; ++i) static_cast<F16Bits*>(out)[i] = f16_from_f32(x[i]);
      return;
    case Dtype::kBF16:
      for (int64_t i = 0; i < cols; ++i) static_cast<Bf16Bits*>(out)[i] = bf16_from_f32(x[i]);
      return;
    case Dtype::kQ8_0:
      for (int64_t i = 0; i < cols / 32; ++i)
        quantize_block_q8_0(x + 32 * i, static_cast<BlockQ8_0*>(out) + i);
      return;
    default:  // F32, the only other dtype that the check admits
      for (int64_t i = 0; i < cols; ++i) static_cast<float*>(out)[i] = x[i];
  }
}

}  // namespace

void norm_row(const RowNorm& norm, const float* x, int64_t n, float* out) {
  if (norm.kind == RowNorm::Kind::kNone) {
    std::copy(x, x + n, out);
    return;
  }
  double mean = 0.0;
  if (norm.kind == RowNorm::Kind::kLayer) {
    for (int64_t i = 0; i < n; ++i) mean += x[i];
    mean /= static_cast<double>(n);
  }
  double squares = 0.0;
  for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double scale = 1.0 / std::sqrt(squares / static_cast<double>(n) + norm.eps);
  for (int64_t i = 0; i < n; ++i) {
    const double weight = norm.weight == nullptr ? 1.0 : norm.weight[i];
    const double bias = norm.bias == nullptr ? 0.0 : norm.bias[i];
    out[i] = static_cast<float>((x[i] - mean) * scale * weight + bias);
  }
}

void rotate_row(const Rotation& rotation, int64_t t, int64_t head_dim, int64_t cols, float* x) {
  const int64_t half = rotation.cos.cols;
  const auto* cos = row<float>(rotation.cos, t);
  const auto* sin = row<float>(rotation.sin, t);
  const bool adjacent = rotation.pairs == RopePairs::kAdjacent;
  for (const float* end = x + cols; x < end; x += head_dim) {
    for (int64_t k = 0; k < half; ++k) {
      float& u = adjacent ? x[2 * k] : x[k];
      float& v = adjacent ? x[2 * k + 1] : x[k + half];
      const double u_new = static_cast<double>(u) * cos[k] - static_cast<double>(v) * sin[k];
      const double v_new = static_cast<double>(u) * sin[k] + static_cast<double>(v) * cos[k];
      u = static_cast<float>(u_new);
      v = static_cast<float>(v_new);
    }
  }
}

Status gather_rows(const ExecContext& ctx, const GatherRowsArgs& a) {
  if (const Status s = check_gather_rows_args(a); s != Status::kOk) return s;
  for_each(ctx, a.out.rows, [&](int64_t t, int32_t) {
    auto* out = row<float>(a.out, t);
    dequantize_row(a.table.dtype, row<void>(a.table, a.ids[t]), a.out.cols, out);
    for (int64_t i = 0; i < a.out.cols; ++i) out[i] *= a.scale;
  });
  return Status::kOk;
}

Status convert_rows(const ExecContext& ctx, const ConvertRowsArgs& a) {
  if (const Status s = check_convert_rows_args(a); s != Status::kOk) return s;
  const bool rotates = a.rotation.cos.data != nullptr;
  const int64_t cols = a.x.cols;
  if (a.x.rows == 0 || cols == 0) return Status::kOk;
  float* rows = nullptr;
  if (rotates) {
    const int64_t floats = ctx.n_threads * cols;
    rows = static_cast<float*>(get_scratch(ctx, static_cast<size_t>(floats) * sizeof(float)));
    if (rows == nullptr) return Status::kOutOfMemory;
  }
  for_each(ctx, a.x.rows, [&](int64_t t, int32_t thread) {
    const auto* x = row<float>(a.x, t);
    if (rotates) {
      float* rotated = rows + thread * cols;
      std::copy(x, x + cols, rotated);
      rotate_row(a.rotation, t, a.head_dim, cols, rotated);
      x = rotated;
    }
    convert_row(a.out.dtype, x, cols, row<void>(a.out, a.at == nullptr ? t : a.at[t]));
  });
  return Status::kOk;
}

Status rms_norm(const ExecContext& ctx, const RmsNormArgs& a) {
  if (const Status s = check_rms_norm_args(a); s != Status::kOk) return s;
  const RowNorm norm{RowNorm::Kind::kRms, a.weight, nullptr, a.eps};
  for_each(ctx, a.x.rows,
           [&](int64_t t, int32_t) { norm_row(norm, row<float>(a.x, t), a.x.cols, row<float>(a.out, t)); });
  return Status::kOk;
}

Status layer_norm(const ExecContext& ctx, const LayerNormArgs& a) {
  if (const Status s = check_layer_norm_args(a); s != Status::kOk) return s;
  const RowNorm norm{RowNorm::Kind::kLayer, a.weight, a.bias, a.eps};
  for_each(ctx, a.x.rows,
           [&](int64_t t, int32_t) { norm_row(norm, row<float>(a.x, t), a.x.cols, row<float>(a.out, t)); });
  return Status::kOk;
}

Status add(const ExecContext& ctx, const AddArgs& a) {
  if (const Status s = check_add_args(a); s != Status::kOk) return s;
  for_each(ctx, a.out.rows, [&](int64_t t, int32_t) {
    const auto* x = row<float>(a.x, t);
    const auto* y = row<float>(a.y, t % a.y.rows);
    auto* out = row<float>(a.out, t);
    for (int64_t i = 0; i < a.out.cols; ++i) out[i] = x[i] + y[i];
  });
  return Status::kOk;
}

Status gated_act(const ExecContext& ctx, const GatedActArgs& a) {
  if (const Status s = check_gated_act_args(a); s != Status::kOk) return s;
  for_each(ctx, a.out.rows, [&](int64_t t, int32_t) {
    const auto* gate = row<float>(a.gate, t);
    const auto* up = row<float>(a.up, t);
    auto* out = row<float>(a.out, t);
    for (int64_t i = 0; i < a.out.cols; ++i) {
      out[i] = static_cast<float>(activate(a.act, gate[i]) * up[i]);
    }
  });
  return Status::kOk;
}

Status rope(const ExecContext& ctx, const RopeArgs& a) {
  if (const Status s = check_rope_args(a); s != Status::kOk) return s;
  const Rotation rotation{a.cos, a.sin, a.pairs};
  for_each(ctx, a.x.rows,
           [&](int64_t t, int32_t) { rotate_row(rotation, t, a.head_dim, a.x.cols, row<float>(a.x, t)); });
  return Status::kOk;
}

Status patchify(const ExecContext& ctx, const PatchifyArgs& a) {
  if (const Status s = check_patchify_args(a); s != Status::kOk) return s;
  const int64_t per_row = a.width / a.patch;
  for_each(ctx, a.out.rows, [&](int64_t p, int32_t) {
    auto* out = row<float>(a.out, p);
    const int64_t top = p / per_row * a.patch;
    const int64_t left = p % per_row * a.patch;
    for (int64_t c = 0; c < a.channels; ++c) {
      for (int64_t y = 0; y < a.patch; ++y) {
        const float* pixels = a.pixels + (c * a.height + top + y) * a.width + left;
        for (int64_t x = 0; x < a.patch; ++x) *out++ = pixels[x];
      }
    }
  });
  return Status::kOk;
}

}  // namespace trimtok::ref
