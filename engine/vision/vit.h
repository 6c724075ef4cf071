// What vision transformers of all families share: their clip.vision.* settings and the pre-norm block.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/core/backend.h"
#include "engine/gguf/file.h"
#include "engine/gguf/weights.h"

namespace trimtok {

struct VitConfig {
  int32_t image_size = 0;  // pixels per side of a view
  int32_t patch_size = 0;
  int32_t grid = 0;  // whole patches per side; pixels beyond them are ignored
  int32_t width = 0;
  int32_t n_layers = 0;  // layers in the file
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
  float eps = 0.0f;
  Activation act = Activation::kQuickGelu;
  bool rms_norm = false;        // the blocks' norms are RMSNorm; a family's own knowledge, no file says it
  std::array<float, 3> mean{};  // of pixels in [0, 1]
  std::array<float, 3> std{};

  int64_t n_patches() const { return int64_t{grid} * grid; }
  int64_t q_width() const { return int64_t{n_heads} * head_dim; }
  int64_t kv_width() const { return int64_t{n_kv_heads} * head_dim; }
};

// Reads and range-checks clip.vision.* (spec 4.2, 1.9). Throws Error(kFormat | kUnsupported) naming the key.
VitConfig read_vit_config(const GgufFile& file);

struct Linear {
  ConstMatrix weight;           // [outputs, inputs]
  const float* bias = nullptr;  // null: none
};

struct Norm {
  const float* weight = nullptr;  // null: the file has no such norm
  const float* bias = nullptr;
};

// RMSNorm of queries or keys, before they are used.
struct QueryNorm {
  const float* weight = nullptr;  // null: none
  int64_t width = 0;              // head_dim: each head on its own; else all heads as one vector
};

struct VitLayer {
  Norm ln1, ln2;
  Linear qkv;  // q, k, v stacked; weight absent when the file stores them apart
  Linear q, k, v;
  Linear out, up, down;
  Linear gate;  // weight absent: down(act(up(x))), else down(act(gate(x)) * up(x))
  QueryNorm q_norm, k_norm;
  const float* ls1 = nullptr;  // [width] factors on what attention and FFN add (layer scale); null: none
  const float* ls2 = nullptr;
};

// "<name>.weight", "<name>.bias" (optional). -1 accepts any size.
Linear bind_linear(WeightBinder& binder, const std::string& name, int64_t rows, int64_t cols);
Norm bind_norm(WeightBinder& binder, const std::string& name, int64_t n);
// v.blk.0 ... v.blk.<n - 1>. Undoes the swapped FFN names of older files (spec 5.4).
std::vector<VitLayer> bind_vit_layers(WeightBinder& binder, std::shared_ptr<const GgufFile> file,
                                      const VitConfig& config, int32_t n);

// The keys that each row attends to.
struct RowIntervals {
  const int32_t* begin = nullptr;  // [T]
  const int32_t* end = nullptr;
};

// x += attention(ln1(x)); x += ffn(ln2(x)).   x: [T, width]; rope: of 2-D RoPE, [T, head_dim / 2]; absent:
// positions are in the rows already.
void run_vit_layer(Backend& backend, const VitConfig& config, const VitLayer& layer, int32_t index,
                   const Matrix& x, const RowIntervals& intervals, const Rotation& rope = {});
// Bytes of arena that run_vit_layer takes per row.
size_t vit_scratch_bytes(const VitConfig& config, const std::vector<VitLayer>& layers);

// out = norm(x), the kind that config.rms_norm says. out may be x.
void apply_norm(Backend& backend, const VitConfig& config, const Norm& norm, const Matrix& out,
                const ConstMatrix& x, const char* where);

// Throws Error(kNumerics) naming the first row that is not finite: damaged weights. Waits for the rows.
void check_finite_rows(Backend& backend, const ConstMatrix& rows);

// Parts of an f32 matrix.
Matrix row_slice(const Matrix& m, int64_t first, int64_t n);
Matrix col_slice(const Matrix& m, int64_t first, int64_t n);

}  // namespace trimtok
