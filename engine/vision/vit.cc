#include "engine/vision/vit.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/gguf/quote.h"

namespace trimtok {
namespace {

constexpr int64_t kMaxLayers = 512;
constexpr int64_t kMaxWidth = 65536;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxImageSize = 8192;
constexpr int64_t kMaxPatches = 65536;  // per view; attention is quadratic in it

std::array<float, 3> read_rgb(const GgufFile& file, const char* key, bool is_divisor) {
  const std::optional<std::vector<double>> values = file.find_floats(key);
  if (!values || values->size() < 3) {
    fail(ErrorCode::kFormat, "[vision tower] %s: %s has %zu values, expected 3; convert the file again",
         quote_path(file.path()).c_str(), key, values ? values->size() : 0);
  }
  std::array<float, 3> out{};
  for (size_t c = 0; c < 3; ++c) {
    const double v = (*values)[c];
    if (!std::isfinite(v) || std::fabs(v) > 1000.0 || (is_divisor && v < 1e-6)) {
      fail(ErrorCode::kFormat, "[vision tower] %s: %s[%zu] is %g, expected a %s number of at most 1000",
           quote_path(file.path()).c_str(), key, c, v, is_divisor ? "positive" : "finite");
    }
    out[c] = static_cast<float>(v);
  }
  return out;
}

// Neither flag means QuickGELU (spec 4.2). use_gelu is the tanh form: the towers that set it are SigLIP's.
Activation read_activation(const GgufFile& file) {
  const bool gelu = file.get_bool("clip.use_gelu", false);
  const bool silu = file.get_bool("clip.use_silu", false);
  if (gelu && silu) {
    fail(ErrorCode::kFormat, "[vision tower] %s: clip.use_gelu and clip.use_silu are both true, expected one",
         quote_path(file.path()).c_str());
  }
  if (gelu) return Activation::kGeluTanh;
  return silu ? Activation::kSilu : Activation::kQuickGelu;
}

int32_t read_i32(const GgufFile& file, const char* key, int64_t min, int64_t max) {
  return static_cast<int32_t>(file.get_int(key, min, max));
}

// Old files call the first FFN matrix ffn_down. A true down projection reads n_ff inputs, so one that reads
// `width` is the first. When n_ff == width shapes cannot tell: the script that swapped wrote no general.type.
bool ffn_names_are_swapped(std::shared_ptr<const GgufFile> file, const std::string& block, int64_t width) {
  WeightBinder probe(file, "vision tower");
  const ConstMatrix up = probe.optional_matrix(block + "ffn_up.weight", -1, -1);
  const ConstMatrix down = probe.optional_matrix(block + "ffn_down.weight", -1, -1);
  return down.cols == width && (up.cols != width || !file->has("general.type"));
}

QueryNorm bind_query_norm(WeightBinder& binder, const GgufFile& file, const std::string& name,
                          int64_t head_dim, int64_t width) {
  const TensorInfo* tensor = file.find_tensor(name);
  if (tensor == nullptr) return {};
  const int64_t n = tensor->ne[0] == head_dim ? head_dim : width;
  return {binder.vector(name, n), n};
}

VitLayer bind_vit_layer(WeightBinder& binder, std::shared_ptr<const GgufFile> file, const VitConfig& c,
                        int32_t i) {
  const std::string block = "v.blk." + std::to_string(i) + ".";
  VitLayer layer;
  layer.ln1 = bind_norm(binder, block + "ln1", c.width);
  if (binder.has(block + "attn_qkv.weight")) {
    layer.qkv = bind_linear(binder, block + "attn_qkv", c.q_width() + 2 * c.kv_width(), c.width);
  } else {
    layer.q = bind_linear(binder, block + "attn_q", c.q_width(), c.width);
    layer.k = bind_linear(binder, block + "attn_k", c.kv_width(), c.width);
    layer.v = bind_linear(binder, block + "attn_v", c.kv_width(), c.width);
  }
  layer.out = bind_linear(binder, block + "attn_out", c.width, c.q_width());
  layer.ln2 = bind_norm(binder, block + "ln2", c.width);
  const bool swapped = ffn_names_are_swapped(file, block, c.width);
  layer.up = bind_linear(binder, block + (swapped ? "ffn_down" : "ffn_up"), -1, c.width);
  const int64_t n_ff = layer.up.weight.data != nullptr ? layer.up.weight.rows : -1;
  layer.down = bind_linear(binder, block + (swapped ? "ffn_up" : "ffn_down"), c.width, n_ff);
  if (binder.has(block + "ffn_gate.weight")) {
    layer.gate = bind_linear(binder, block + "ffn_gate", n_ff, c.width);
  }
  layer.q_norm = bind_query_norm(binder, *file, block + "attn_q_norm.weight", c.head_dim, c.q_width());
  layer.k_norm = bind_query_norm(binder, *file, block + "attn_k_norm.weight", c.head_dim, c.kv_width());
  layer.ls1 = binder.optional_vector(block + "ls1.weight", c.width);
  layer.ls2 = binder.optional_vector(block + "ls2.weight", c.width);
  return layer;
}

// out = linear(norm(x)).
void project(Backend& backend, const RowNorm& norm, const Linear& linear, const Matrix& out, const Matrix& x,
             const char* where) {
  backend.matmul({.out = out, .x = x, .w = linear.weight, .bias = linear.bias, .residual = {}, .norm = norm},
                 where);
}

void apply(Backend& backend, const QueryNorm& norm, float eps, const Matrix& x, const char* where) {
  if (norm.weight == nullptr) return;
  for (int64_t first = 0; first < x.cols; first += norm.width) {
    const Matrix part = col_slice(x, first, norm.width);
    backend.rms_norm({part, part, norm.weight, eps}, where);
  }
}

// x += scale * linear(y); scale: null where there is none.
void add_linear(Backend& backend, const Linear& linear, const float* scale, const Matrix& x, const Matrix& y,
                const char* where) {
  backend.matmul({.out = x, .x = y, .w = linear.weight, .bias = linear.bias, .residual = x, .scale = scale},
                 where);
}

RowNorm row_norm(const VitConfig& c, const Norm& norm) {
  if (c.rms_norm) return {.kind = RowNorm::Kind::kRms, .weight = norm.weight, .eps = c.eps};
  return {.kind = RowNorm::Kind::kLayer, .weight = norm.weight, .bias = norm.bias, .eps = c.eps};
}

}  // namespace

VitConfig read_vit_config(const GgufFile& file) {
  VitConfig c;
  c.image_size = read_i32(file, "clip.vision.image_size", 1, kMaxImageSize);
  c.patch_size = read_i32(file, "clip.vision.patch_size", 1, c.image_size);
  c.grid = c.image_size / c.patch_size;
  if (c.n_patches() > kMaxPatches) {
    fail(ErrorCode::kUnsupported,
         "[vision tower] %s: %lld patches per view (image_size %d, patch_size %d), expected "
         "at most %lld",
         quote_path(file.path()).c_str(), static_cast<long long>(c.n_patches()), c.image_size, c.patch_size,
         static_cast<long long>(kMaxPatches));
  }
  c.width = read_i32(file, "clip.vision.embedding_length", 1, kMaxWidth);
  c.n_layers = read_i32(file, "clip.vision.block_count", 1, kMaxLayers);
  c.n_heads = read_i32(file, "clip.vision.attention.head_count", 1, kMaxHeads);
  c.n_kv_heads =
      static_cast<int32_t>(file.get_int("clip.vision.attention.head_count_kv", 1, kMaxHeads, c.n_heads));
  if (c.n_heads % c.n_kv_heads != 0) {
    fail(ErrorCode::kFormat, "[vision tower] %s: %d heads, expected a multiple of the %d key/value heads",
         quote_path(file.path()).c_str(), c.n_heads, c.n_kv_heads);
  }
  if (!file.has("clip.vision.attention.head_dim") && c.width % c.n_heads != 0) {
    fail(ErrorCode::kFormat, "[vision tower] %s: embedding_length %d, expected a multiple of the %d heads",
         quote_path(file.path()).c_str(), c.width, c.n_heads);
  }
  const int64_t head_dim = file.get_int("clip.vision.attention.head_dim", 1, kMaxWidth, c.width / c.n_heads);
  c.head_dim = static_cast<int32_t>(head_dim);
  c.eps = static_cast<float>(file.get_float("clip.vision.attention.layer_norm_epsilon",
                                            double{std::numeric_limits<float>::min()}, 1.0));
  c.act = read_activation(file);
  c.mean = read_rgb(file, "clip.vision.image_mean", false);
  c.std = read_rgb(file, "clip.vision.image_std", true);
  return c;
}

Linear bind_linear(WeightBinder& binder, const std::string& name, int64_t rows, int64_t cols) {
  Linear linear;
  linear.weight = binder.matrix(name + ".weight", rows, cols);
  // An absent weight is reported already; its bias then has no length to be checked against.
  if (linear.weight.data != nullptr) linear.bias = binder.optional_vector(name + ".bias", linear.weight.rows);
  return linear;
}

Norm bind_norm(WeightBinder& binder, const std::string& name, int64_t n) {
  return {binder.vector(name + ".weight", n), binder.optional_vector(name + ".bias", n)};
}

std::vector<VitLayer> bind_vit_layers(WeightBinder& binder, std::shared_ptr<const GgufFile> file,
                                      const VitConfig& config, int32_t n) {
  std::vector<VitLayer> layers;
  layers.reserve(static_cast<size_t>(n));
  for (int32_t i = 0; i < n; ++i) layers.push_back(bind_vit_layer(binder, file, config, i));
  return layers;
}

void apply_norm(Backend& backend, const VitConfig& c, const Norm& norm, const Matrix& out,
                const ConstMatrix& x, const char* where) {
  if (c.rms_norm) {
    backend.rms_norm({out, x, norm.weight, c.eps}, where);
  } else {
    backend.layer_norm({out, x, norm.weight, norm.bias, c.eps}, where);
  }
}

void check_finite_rows(Backend& backend, const ConstMatrix& device_rows) {
  Buffer copy;
  const ConstMatrix rows = backend.read(device_rows, copy);
  for (int64_t t = 0; t < rows.rows; ++t) {
    const auto* row =
        reinterpret_cast<const float*>(static_cast<const std::byte*>(rows.data) + t * rows.stride);
    for (int64_t i = 0; i < rows.cols; ++i) {
      if (std::isfinite(row[i])) continue;
      fail(ErrorCode::kNumerics,
           "[encode] row %lld of the picture holds %g, expected finite numbers; the weights of the vision "
           "tower may be damaged",
           static_cast<long long>(t), static_cast<double>(row[i]));
    }
  }
}

void run_vit_layer(Backend& backend, const VitConfig& c, const VitLayer& layer, int32_t index,
                   const Matrix& x, const RowIntervals& intervals, const Rotation& rope) {
  const std::string name = "vision layer " + std::to_string(index);
  const char* where = name.c_str();
  {
    const Arena::Mark mark(backend.arena());
    const Matrix qkv = backend.arena().matrix(x.rows, c.q_width() + 2 * c.kv_width());
    const Matrix q = col_slice(qkv, 0, c.q_width());
    const Matrix k = col_slice(qkv, c.q_width(), c.kv_width());
    const Matrix v = col_slice(qkv, c.q_width() + c.kv_width(), c.kv_width());
    const Matrix mixed = backend.arena().matrix(x.rows, c.q_width());
    const RowNorm norm = row_norm(c, layer.ln1);
    if (layer.qkv.weight.data != nullptr) {
      project(backend, norm, layer.qkv, qkv, x, where);
    } else {
      project(backend, norm, layer.q, q, x, where);
      project(backend, norm, layer.k, k, x, where);
      project(backend, norm, layer.v, v, x, where);
    }
    apply(backend, layer.q_norm, c.eps, q, where);
    apply(backend, layer.k_norm, c.eps, k, where);
    // Queries are rotated inside attention. Keys are read by many of its tasks, so they are rotated before.
    if (rope.cos.data != nullptr) {
      backend.rope({k, c.head_dim, rope.cos, rope.sin, rope.pairs}, where);
    }
    AttentionArgs attention{mixed, q, k, v, c.n_heads, c.n_kv_heads, c.head_dim};
    attention.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    attention.begin = intervals.begin;
    attention.end = intervals.end;
    attention.rotation = rope;
    backend.attention(attention, where);
    add_linear(backend, layer.out, layer.ls1, x, mixed, where);
  }
  const Arena::Mark mark(backend.arena());
  const Matrix hidden = backend.arena().matrix(x.rows, layer.up.weight.rows);
  MatmulArgs args{.out = hidden, .x = x, .w = layer.up.weight, .bias = layer.up.bias, .residual = {}};
  args.norm = row_norm(c, layer.ln2);
  const bool gated = layer.gate.weight.data != nullptr;
  if (!gated) args.act = c.act;
  backend.matmul(args, where);
  if (gated) {
    args.w = layer.gate.weight;
    args.bias = layer.gate.bias;
    args.act = c.act;
    args.times = hidden;
    backend.matmul(args, where);
  }
  add_linear(backend, layer.down, layer.ls2, x, hidden, where);
}

size_t vit_scratch_bytes(const VitConfig& config, const std::vector<VitLayer>& layers) {
  int64_t widest = 2 * config.q_width() + 2 * config.kv_width();
  for (const VitLayer& layer : layers) widest = std::max(widest, layer.up.weight.rows);
  return static_cast<size_t>(widest) * sizeof(float);
}

Matrix row_slice(const Matrix& m, int64_t first, int64_t n) {
  return {static_cast<std::byte*>(m.data) + first * m.stride, m.dtype, n, m.cols, m.stride};
}

Matrix col_slice(const Matrix& m, int64_t first, int64_t n) {
  return {static_cast<float*>(m.data) + first, m.dtype, m.rows, n, m.stride};
}

}  // namespace trimtok
