// The interface that one decoder file (one architecture) fills.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/backend.h"
#include "engine/core/run_control.h"
#include "engine/gguf/file.h"
#include "engine/language/kv_cache.h"

namespace trimtok {

struct DecoderInfo {
  std::string arch;  // general.architecture
  int32_t n_layers = 0;
  int32_t n_embd = 0;
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t n_vocab = 0;  // rows of token_embd
  int32_t n_ctx_train = 0;
  int32_t n_pos = 1;    // position components per row: 1, or 3 (t, h, w) for M-RoPE
  int32_t n_extra = 0;  // extra slices a picture row brings (deepstack)
  size_t weight_bytes = 0;
  std::vector<size_t> layer_bytes;  // [n_layers], of weight_bytes
  double flops_per_row = 0;         // of the matrices, attention and output head left out
};

// Consecutive rows of one sequence. Row i of the batch is sequence index cache.length() + i.
struct RowBatch {
  ConstMatrix rows;                // [T, n_embd]: token embeddings (already scaled) and picture rows
  std::vector<ConstMatrix> extra;  // n_extra x [T, n_embd]: added after layer k, zero at text rows; or empty
  std::vector<int32_t> positions;  // [n_pos, T]
  // Sequence indices that row i sees, before any window of a layer: [begin, end). Causal is [0, index + 1);
  // the rows of a bidirectional picture end at its last row.
  std::vector<int32_t> visible_end;  // [T]
  // One more than the furthest position that the sequence is expected to reach, the same for all its batches:
  // decoders with frequencies of their own for long contexts choose by it. 0: what this batch reaches.
  int32_t n_positions = 0;
};

class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual const DecoderInfo& info() const = 0;
  // Token embeddings as they enter layer 0 (scaled where the architecture scales them). out: [ids.size(),
  // n_embd], in memory of on.first.
  virtual void embed(const LayerBackends& on, std::span<const int32_t> ids, const Matrix& out) const = 0;
  // Appends the batch, whose rows lie in memory of on.first, to the cache and writes logits of its last
  // logits.rows rows ([n, n_vocab], may be 0 rows; memory of the host). On an exception the cache is left as
  // it was. Taps: "layer_out" per layer, "output_norm".
  virtual void forward(const LayerBackends& on, const RowBatch& batch, KvCache& cache, const Matrix& logits,
                       const RunControl& control) const = 0;
};

// Reads general.architecture and dispatches through decoders.def.
std::unique_ptr<Decoder> load_decoder(std::shared_ptr<const GgufFile> file, const Placement& place = {});
// Values of general.architecture and the models that they stand for, from decoders.def.
std::vector<std::pair<std::string, std::string>> supported_decoders();

}  // namespace trimtok
