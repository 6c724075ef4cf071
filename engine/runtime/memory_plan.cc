#include "engine/runtime/memory_plan.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "engine/core/dry_run.h"
#include "engine/core/host_memory.h"

namespace trimtok {
namespace {

constexpr int64_t kChunk = 512;  // rows of a prefill batch, as GenerateOptions has it
// Up to here the pruner holds the similarities of all pairs of rows at once (GramRows::kMaxWhole).
constexpr int64_t kMaxGramRows = 8192;

// One batch of the prompt through all layers, behind a cache of n_ctx rows.
void run_decoder(const Decoder& decoder, const LayerBackends& on, KvCache& cache, int64_t n_ctx) {
  const DecoderInfo& info = decoder.info();
  cache.reserve(n_ctx);
  const int64_t n = std::min(n_ctx, kChunk);
  const Arena::Mark mark(on.first.arena());
  RowBatch batch;
  const Matrix rows = on.first.arena().matrix(n, info.n_embd);
  batch.rows = rows;
  batch.extra.assign(static_cast<size_t>(info.n_extra), rows);
  batch.positions.assign(static_cast<size_t>(n * info.n_pos), 0);
  batch.visible_end.resize(static_cast<size_t>(n));
  std::iota(batch.visible_end.begin(), batch.visible_end.end(), 1);
  std::vector<float> logits(static_cast<size_t>(info.n_vocab));
  decoder.forward(on, batch, cache,
                  {logits.data(), Dtype::kF32, 1, info.n_vocab, row_bytes(Dtype::kF32, info.n_vocab)}, {});
}

// Unit rows, the rows that stage 2 gathers, similarities of all pairs, and the digits of the rows that they
// are computed from (cuda/gram.cu).
size_t pruner_bytes(int64_t n_rows, int64_t width) {
  const int64_t whole = std::min(n_rows, kMaxGramRows);
  const int64_t digits = 3 * whole * width;
  return static_cast<size_t>(3 * n_rows * width + whole * whole) * sizeof(float) +
         static_cast<size_t>(digits);
}

}  // namespace

MemoryPlan plan_memory(const PlanRequest& request) {
  const DecoderInfo& info = request.decoder->info();
  const bool split = request.place.memory != nullptr && request.place.n_layers < info.n_layers;
  const int32_t n_first = split ? request.place.n_layers : info.n_layers;
  const std::unique_ptr<Backend> dry = dry_backend(), dry_host = dry_backend(/*on_host=*/true);
  MemoryPlan plan;
  plan.weights = info.weight_bytes;
  if (split) {
    plan.weights = std::accumulate(info.layer_bytes.begin(), info.layer_bytes.begin() + n_first, size_t{0});
  }
  plan.host = info.weight_bytes - plan.weights;

  if (request.tower != nullptr) plan.tower = request.tower->info().weight_bytes;
  if (request.tower != nullptr && request.n_images > 0) {
    const std::vector<uint8_t> grey(3 * static_cast<size_t>(request.image_width) *
                                    static_cast<size_t>(request.image_height));
    const EncodedImage image =
        request.tower->encode(*dry, {grey.data(), request.image_width, request.image_height}, {});
    plan.image_rows = request.n_images * image.rows.rows;
    plan.rows = static_cast<size_t>(request.n_images) * image.storage.size();
  }
  const int64_t width = int64_t{info.n_embd} * (1 + info.n_extra);
  plan.rows += static_cast<size_t>(request.n_ctx * width) * sizeof(float);

  KvCache cache(info.n_layers, int64_t{info.n_kv_heads} * info.head_dim, request.kv_dtype,
                {dry->memory(), kAllLayers});
  run_decoder(*request.decoder, split ? LayerBackends(*dry, *dry_host, n_first) : LayerBackends(*dry), cache,
              request.n_ctx);
  plan.kv = cache.bytes() / static_cast<size_t>(info.n_layers) * static_cast<size_t>(n_first);
  plan.host += cache.bytes() - plan.kv + dry_host->arena().capacity();
  plan.scratch = std::max(dry->arena().capacity(), pruner_bytes(plan.image_rows, info.n_embd));
  return plan;
}

size_t memory_budget(const MemoryPtr& memory) {
  if (memory != nullptr) return memory->available() + memory->used();
  return available_host_memory();
}

}  // namespace trimtok
