// One answer being made: encode, prefill, then token by token.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/runtime/model.h"
#include "engine/runtime/prompt.h"
#include "engine/runtime/pruning.h"
#include "engine/runtime/sequence.h"
#include "engine/text/sampler.h"

namespace trimtok {

struct GenerateOptions {
  SamplingOptions sampling;
  int64_t max_tokens = 256;
  std::vector<std::string> stop;
  int64_t chunk = 512;                // rows per prefill batch
  std::optional<PruneRequest> prune;  // none: every row stays
  // One per image, equal for equal pixels and sizes; or empty: nothing is remembered.
  std::vector<std::string> image_keys;
  ViewOptions view;
  double video_fps = 0;  // above 0: the pictures are frames of a video, taken at this rate
};

struct Usage {
  int64_t prompt_tokens = 0;  // all rows of the prompt, picture rows included
  int64_t visual_tokens = 0;  // of them picture rows
  int64_t completion_tokens = 0;
};

struct Timings {  // seconds
  double load = 0;
  std::vector<double> encode;  // per picture or group of frames; 0 where its rows were remembered
  double prune = 0;
  double prefill = 0;
  double decode = 0;
};

// One answer being made. next() yields text as it comes; the state is complete after every call, so a
// caller may stop at any time.
class Generation {
 public:
  Generation(std::shared_ptr<Model> model, const std::string& prompt, std::vector<Image> images,
             GenerateOptions options);

  // The next piece of text (whole UTF-8 characters, never part of a stop string); nullopt at the end.
  // The first call encodes and prefills. Throws what the engine throws; after that the generation is over.
  std::optional<std::string> next(const RunControl& control);
  void cancel() noexcept { cancelled_.store(true); }  // from any thread

  const std::string& text() const { return text_; }
  const std::vector<int32_t>& token_ids() const { return token_ids_; }
  const std::string& finish_reason() const { return finish_reason_; }  // "stop", "length", "cancelled" or ""
  const Usage& usage() const { return usage_; }
  const Timings& timings() const { return timings_; }
  size_t kv_bytes() const { return kv_bytes_; }
  // Work of the prefill: matrices and attention over what each row may see (windows of layers left out).
  double prefill_flops() const { return prefill_flops_; }
  // Null when pruning was not asked for, there are no pictures, or prefill has not begun.
  const PrunedSequence* pruned() const { return pruned_ ? &*pruned_ : nullptr; }
  const std::vector<ImagePlan>& image_plans() const { return image_plans_; }

 private:
  std::string plan_images(const std::string& prompt);
  std::string cache_key(size_t first, size_t last) const;
  void check_fits(int64_t n_rows) const;
  void start(const RunControl& control);
  std::vector<std::shared_ptr<const EncodedImage>> encode_images(const RunControl& control);
  void fill_rows(const std::vector<ConstMatrix>& picture_rows, const Matrix& rows);
  void fill_text(const std::vector<int32_t>& ids, const Matrix& rows);
  std::string step(const RunControl& control);
  std::string release(size_t n);
  std::string finish(const char* reason);
  void close();

  std::shared_ptr<Model> model_;
  std::shared_ptr<const Tower> tower_;  // with the options of this call; null without pictures
  std::vector<Image> images_;
  size_t group_ = 1;                    // images of one plan: frames of a group of a video
  std::vector<ImagePlan> image_plans_;  // one per group
  SequencePlan plan_;                   // of the whole prompt, after pruning of what is left
  std::optional<PrunedSequence> pruned_;
  GenerateOptions options_;
  Sampler sampler_;
  StreamDecoder stream_;
  std::unique_ptr<Sequence> sequence_;
  std::vector<float> logits_;
  std::string text_;  // what was handed out
  std::string held_;  // what may be the beginning of a stop string
  std::vector<int32_t> token_ids_;
  int32_t position_ = 0;  // of the next token
  bool started_ = false;
  bool done_ = false;
  std::string finish_reason_;
  std::atomic<bool> cancelled_{false};
  Usage usage_;
  Timings timings_;
  size_t kv_bytes_ = 0;
  double prefill_flops_ = 0;
};

}  // namespace trimtok
