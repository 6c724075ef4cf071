#include "engine/language/params.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "engine/core/error.h"
#include "engine/gguf/quote.h"

namespace trimtok {
namespace {

// Far above any published model; small enough that products of two of them fit in 64 bits.
constexpr int64_t kMaxLayers = 512;
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxHeads = 1 << 14;
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr double kMinPositive = std::numeric_limits<float>::min();

// Head counts may be stored per layer; the engine needs one value.
int32_t uniform_heads(const GgufFile& file, const std::string& key, int64_t n_layers,
                      std::optional<int64_t> fallback) {
  const std::vector<int64_t> values = file.get_per_layer(key, n_layers, 1, kMaxHeads, fallback);
  const auto other = std::find_if(values.begin(), values.end(), [&](int64_t v) { return v != values[0]; });
  if (other != values.end()) {
    fail(ErrorCode::kUnsupported,
         "[language model] %s: key %s holds %lld and %lld, only one value for all layers is supported",
         quote_path(file.path()).c_str(), key.c_str(), static_cast<long long>(values[0]),
         static_cast<long long>(*other));
  }
  return static_cast<int32_t>(values[0]);
}

void read_heads(const GgufFile& file, const std::string& prefix, DecoderParams& p) {
  const std::string path = quote_path(file.path());
  const char* arch = p.arch.c_str();
  p.n_heads = uniform_heads(file, prefix + "attention.head_count", p.n_layers, std::nullopt);
  p.n_kv_heads = uniform_heads(file, prefix + "attention.head_count_kv", p.n_layers, p.n_heads);
  if (p.n_heads % p.n_kv_heads != 0) {
    fail(ErrorCode::kFormat,
         "[language model] %s: key %s.attention.head_count_kv is %d, expected a divisor of head_count %d",
         path.c_str(), arch, p.n_kv_heads, p.n_heads);
  }
  const std::string key_length = prefix + "attention.key_length";
  if (!file.has(key_length) && p.n_embd % p.n_heads != 0) {
    fail(ErrorCode::kFormat,
         "[language model] %s: key %s is missing, expected because embedding_length %d is no multiple of "
         "head_count %d",
         path.c_str(), key_length.c_str(), p.n_embd, p.n_heads);
  }
  p.head_dim = static_cast<int32_t>(file.get_int(key_length, 1, kMaxWidth, p.n_embd / p.n_heads));
  const int64_t value_length = file.get_int(prefix + "attention.value_length", 1, kMaxWidth, p.head_dim);
  if (value_length != p.head_dim) {
    fail(ErrorCode::kUnsupported,
         "[language model] %s: key %s.attention.value_length is %lld, only the same as key_length %d is "
         "supported",
         path.c_str(), arch, static_cast<long long>(value_length), p.head_dim);
  }
  p.n_rot = static_cast<int32_t>(file.get_int(prefix + "rope.dimension_count", 2, p.head_dim, p.head_dim));
  if (p.n_rot % 2 != 0) {
    fail(ErrorCode::kFormat,
         "[language model] %s: key %s.rope.dimension_count is %d, expected an even number", path.c_str(),
         arch, p.n_rot);
  }
}

}  // namespace

DecoderParams read_decoder_params(const GgufFile& file, const std::string& arch) {
  const std::string prefix = arch + ".";
  DecoderParams p;
  p.arch = arch;
  const int64_t n_experts = file.get_int(prefix + "expert_count", 0, kMaxInt32, 0);
  if (n_experts > 0) {
    fail(ErrorCode::kUnsupported,
         "[language model] %s: key %s.expert_count is %lld: mixtures of experts are not supported; use a "
         "dense model",
         quote_path(file.path()).c_str(), arch.c_str(), static_cast<long long>(n_experts));
  }
  p.n_layers = static_cast<int32_t>(file.get_int(prefix + "block_count", 1, kMaxLayers));
  p.n_embd = static_cast<int32_t>(file.get_int(prefix + "embedding_length", 1, kMaxWidth));
  p.n_ctx_train = static_cast<int32_t>(file.get_int(prefix + "context_length", 1, kMaxInt32));
  p.n_ff = file.get_per_layer(prefix + "feed_forward_length", p.n_layers, 1, kMaxWidth, std::nullopt);
  read_heads(file, prefix, p);
  p.norm_eps =
      static_cast<float>(file.get_float(prefix + "attention.layer_norm_rms_epsilon", kMinPositive, 1.0));
  p.rope_freq_base = file.get_float(prefix + "rope.freq_base", kMinPositive, 1e30, 10000.0);
  p.attention_scale = static_cast<float>(
      file.get_float(prefix + "attention.scale", kMinPositive, 1e6, 1.0 / std::sqrt(p.head_dim)));
  return p;
}

}  // namespace trimtok
