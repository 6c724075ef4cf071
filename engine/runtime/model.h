// A loaded model: files, tokenizer, tower, decoder and the device they run on.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/core/backend.h"
#include "engine/core/run_control.h"
#include "engine/gguf/file.h"
#include "engine/language/decoder.h"
#include "engine/runtime/image_cache.h"
#include "engine/runtime/memory_plan.h"
#include "engine/runtime/residency.h"
#include "engine/text/tokenizer.h"
#include "engine/vision/tower.h"

namespace trimtok {

struct ModelOptions {
  std::string path;
  std::string mmproj;                      // empty: find it (see find_model_files)
  std::string device = "auto";             // auto | cpu | cuda; tests: see choose_device()
  int32_t gpu_layers = -1;                 // layers of the decoder on the device, the first ones; -1: all
  std::string kv_dtype = "f16";            // f16 | bf16 | q8_0 | f32
  std::string compute = "auto";            // auto | f32 | bf16 | int8
  int64_t n_ctx = 0;                       // 0: the trained context
  int32_t n_threads = 0;                   // 0: every CPU this process may use
  int32_t n_threads_batch = 0;             // while encoding and prefilling; 0: n_threads
  size_t image_cache_bytes = 0;            // rows of pictures that are remembered
  Residency residency = Residency::kAuto;  // of weights on the CPU; those of a device are copied there
};

// Immutable after loading; compute is serialised by a mutex, so sequences of several threads may interleave.
class Model {
 public:
  static std::shared_ptr<Model> load(const ModelOptions& options, const RunControl& control);

  const GgufFile& lm_file() const { return *files_.lm; }
  const GgufFile* vision_file() const { return files_.vision.get(); }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const Decoder& decoder() const { return *decoder_; }
  const Tower* tower() const { return tower_.get(); }  // null for a text-only model
  const Tower& require_tower() const;                  // throws Error(kInvalidArgument) without one
  // The tower as a call wants it; shares the weights. Throws Error(kInvalidArgument) where it cannot.
  std::shared_ptr<const Tower> tower_with(const ViewOptions& options) const;
  // What loading noticed and passed over.
  const std::vector<std::string>& notes() const { return files_.notes; }
  Backend& backend() { return *backend_; }  // of tower, pruner and the first layers
  LayerBackends layers() {
    return host_ == nullptr ? LayerBackends(*backend_)
                            : LayerBackends(*backend_, *host_, placement_.n_layers);
  }
  const Placement& placement() const { return placement_; }
  int32_t gpu_layers() const;  // layers on the device
  // Why device="auto" chose the CPU, and the like; empty: nothing to say.
  const std::string& device_note() const { return device_note_; }
  const WeightMover& mover() const { return *mover_; }
  // Whether new sequences decode by recorded steps (StepGraph): on a device that holds every layer, unless
  // that was turned off to measure what it is worth.
  bool records_steps() const { return recording_ && host_ == nullptr && !backend_->on_host(); }
  void set_recording(bool on) { recording_ = on; }
  std::mutex& compute_mutex() { return compute_mutex_; }
  ImageCache& image_cache() { return *image_cache_; }
  Dtype kv_dtype() const { return kv_dtype_; }
  int64_t n_ctx() const { return n_ctx_; }
  double load_seconds() const { return load_seconds_; }
  size_t bytes_in_use() const { return placement_.memory != nullptr ? placement_.memory->used() : 0; }
  // For n_images pictures of this size and n_ctx rows of cache.
  MemoryPlan plan(int64_t n_images, int64_t n_ctx, int32_t width = 1024, int32_t height = 768) const;

 private:
  Model() = default;
  void move_to_device(const ModelOptions& options);
  void check_memory() const;
  void move_weights(Residency residency);
  ModelFiles files_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Backend> host_;  // of the layers that are not on the device; null: all are
  std::string device_note_;
  Placement placement_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Decoder> decoder_;
  std::shared_ptr<const Tower> tower_;
  std::mutex compute_mutex_;
  std::atomic<bool> recording_ = true;
  std::unique_ptr<ImageCache> image_cache_;
  std::unique_ptr<WeightMover> mover_;
  Dtype kv_dtype_ = Dtype::kF16;
  int64_t n_ctx_ = 0;
  double load_seconds_ = 0;
};

}  // namespace trimtok
