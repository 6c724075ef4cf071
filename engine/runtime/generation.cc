#include "engine/runtime/generation.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "engine/core/error.h"

namespace trimtok {
namespace {

// Cache rows set aside for the answer; a longer one makes the cache grow.
constexpr int64_t kAnswerRows = 256;

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

// Length of the longest end of `text` that begins a stop string: it must be held back until it is decided.
size_t held_length(const std::string& text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const std::string& stop : stops) {
    for (size_t n = std::min(stop.size() - 1, text.size()); n > longest; --n) {
      if (text.compare(text.size() - n, n, stop, 0, n) == 0) longest = n;
    }
  }
  return longest;
}

size_t find_stop(const std::string& text, const std::vector<std::string>& stops) {
  size_t first = std::string::npos;
  for (const std::string& stop : stops) first = std::min(first, text.find(stop));
  return first;
}

void validate(const GenerateOptions& options) {
  options.sampling.validate();
  if (options.max_tokens < 1) {
    fail(ErrorCode::kInvalidArgument, "[max_tokens] is %lld, must be at least 1",
         static_cast<long long>(options.max_tokens));
  }
  if (options.chunk < 1) {
    fail(ErrorCode::kInvalidArgument, "[chunk] is %lld, must be at least 1",
         static_cast<long long>(options.chunk));
  }
  for (const std::string& stop : options.stop) {
    if (stop.empty())
      fail(ErrorCode::kInvalidArgument, "[stop] holds an empty string, every stop must have text");
  }
}

}  // namespace

Generation::Generation(std::shared_ptr<Model> model, const std::string& prompt, std::vector<Image> images,
                       GenerateOptions options)
    : model_(std::move(model)),
      images_(std::move(images)),
      options_((validate(options), std::move(options))),
      sampler_(options_.sampling, model_->tokenizer().suppressed()),
      stream_(model_->tokenizer()) {
  if (!options_.image_keys.empty() && options_.image_keys.size() != images_.size()) {
    fail(ErrorCode::kInvalidArgument, "[image_keys] has %zu entries for %zu images",
         options_.image_keys.size(), images_.size());
  }
  const std::string placed = plan_images(prompt);
  const bool bidirectional = tower_ != nullptr && tower_->info().bidirectional;
  plan_ =
      plan_sequence(model_->tokenizer(), placed, image_plans_, bidirectional, model_->decoder().info().n_pos);
  if (plan_.n_rows == 0) fail(ErrorCode::kInvalidArgument, "[prompt] is empty; give it text or an image");
  if (plan_.n_visual == 0) options_.prune.reset();
  check_fits(options_.prune ? rows_after_pruning(plan_, image_plans_, *options_.prune) : plan_.n_rows);
}

// Fills image_plans_ and returns the prompt with a marker for each of them.
std::string Generation::plan_images(const std::string& prompt) {
  std::string placed = prompt;
  if (images_.empty()) return placed;
  tower_ = model_->tower_with(options_.view);
  std::vector<PictureSize> sizes;
  for (const Image& image : images_) {
    check_image(image.view());
    sizes.push_back({image.width, image.height});
  }
  if (options_.video_fps > 0 && tower_->info().frames_per_group > 1) {
    group_ = static_cast<size_t>(tower_->info().frames_per_group);
    image_plans_ = plan_video(*tower_, sizes, options_.video_fps, placed);
  } else {
    for (const PictureSize& size : sizes) image_plans_.push_back(tower_->plan(size.width, size.height));
  }
  return placed;
}

// n_rows: of the prompt as the language model will read it.
void Generation::check_fits(int64_t n_rows) const {
  if (n_rows < model_->n_ctx()) return;
  const int64_t n_visual = n_rows - (plan_.n_rows - plan_.n_visual);
  fail(ErrorCode::kContextOverflow,
       "[prompt] takes %lld tokens (%lld of them visual) and leaves no room for an answer in the context of "
       "%lld: %lld too many; prune with fit=True, use fewer or smaller images, a shorter prompt or a larger "
       "n_ctx (trained: %d)",
       static_cast<long long>(n_rows), static_cast<long long>(n_visual),
       static_cast<long long>(model_->n_ctx()), static_cast<long long>(n_rows - model_->n_ctx() + 1),
       model_->decoder().info().n_ctx_train);
}

// Names the pixels of a group and everything else that its rows depend on; empty: not to be remembered.
std::string Generation::cache_key(size_t first, size_t last) const {
  std::string key;
  for (size_t i = first; i < last && !options_.image_keys.empty(); ++i) {
    if (options_.image_keys[i].empty()) return "";
    key += options_.image_keys[i] + "|";
  }
  if (key.empty()) return key;
  return key + format("%lld %lld %zu", static_cast<long long>(options_.view.min_pixels),
                      static_cast<long long>(options_.view.max_pixels), group_ == 1 ? 0 : images_.size());
}

std::vector<std::shared_ptr<const EncodedImage>> Generation::encode_images(const RunControl& control) {
  std::vector<std::shared_ptr<const EncodedImage>> encoded;
  const auto n_frames = static_cast<int32_t>(images_.size());
  const auto n_plans = static_cast<int64_t>(image_plans_.size());
  for (int64_t k = 0; k < n_plans; ++k) {
    RunControl inner = control;
    if (control.progress) {
      inner.progress = [&](const char* phase, int64_t done, int64_t total) {
        control.progress(phase, k * total + done, n_plans * total);
      };
    }
    const size_t first = static_cast<size_t>(k) * group_, last = std::min(first + group_, images_.size());
    const std::string key = cache_key(first, last);
    ImageCache& cache = model_->image_cache();
    std::shared_ptr<const EncodedImage>& image = encoded.emplace_back();
    if (!key.empty()) image = cache.find(key);
    if (image != nullptr) {
      timings_.encode.push_back(0.0);
      continue;
    }
    std::vector<ImageView> frames;
    for (size_t i = first; i < last; ++i) frames.push_back(images_[i].view());
    const Stopwatch watch;
    {
      std::lock_guard lock(model_->compute_mutex());
      image = std::make_shared<const EncodedImage>(
          group_ == 1 ? tower_->encode(model_->backend(), frames[0], inner)
                      : tower_->encode_group(model_->backend(), frames, n_frames, inner));
    }
    timings_.encode.push_back(watch.seconds());
    if (!key.empty()) cache.add(key, image);
  }
  images_.clear();
  return encoded;
}

// Puts embeddings of text and rows of pictures where the plan wants them.
void Generation::fill_rows(const std::vector<ConstMatrix>& picture_rows, const Matrix& rows) {
  const std::lock_guard lock(model_->compute_mutex());
  Backend& backend = model_->backend();
  const std::vector<Segment>& segments = plan_.segments;
  int64_t index = 0;
  for (size_t i = 0; i < segments.size();) {
    const Arena::Mark mark(backend.arena());
    if (segments[i].image < 0) {
      fill_text(segments[i].ids, row_range(rows, index, segments[i].size()));
      index += segments[i].size();
      ++i;
      continue;
    }
    // Rows of one picture follow each other, however many runs pruning has made of them.
    const auto k = static_cast<size_t>(segments[i].image);
    std::vector<int32_t> ids;
    for (; i < segments.size() && segments[i].image == static_cast<int32_t>(k); ++i) {
      for (int64_t r = 0; r < segments[i].n_rows; ++r) {
        ids.push_back(static_cast<int32_t>(segments[i].row_start + r));
      }
    }
    ConstMatrix table = picture_rows[k];
    if (pruned_ && !pruned_->result.pooled.empty()) {
      const std::vector<int32_t>& kept = pruned_->result.report.kept[k];
      for (int32_t& id : ids) {
        id = static_cast<int32_t>(std::lower_bound(kept.begin(), kept.end(), id) - kept.begin());
      }
      const auto n_kept = static_cast<int64_t>(kept.size());
      const std::vector<float>& pooled = pruned_->result.pooled[k];
      table =
          backend.upload({pooled.data(), Dtype::kF32, n_kept, rows.cols, row_bytes(Dtype::kF32, rows.cols)});
    }
    const auto n = static_cast<int64_t>(ids.size());
    backend.gather_rows({row_range(rows, index, n), table, backend.upload(std::span<const int32_t>(ids))},
                        "prompt rows");
    index += n;
  }
}

// Text has no extra slices: zeros.
void Generation::fill_text(const std::vector<int32_t>& ids, const Matrix& rows) {
  Backend& backend = model_->backend();
  const int64_t n_embd = model_->decoder().info().n_embd;
  Matrix main = rows;
  main.cols = n_embd;
  model_->decoder().embed(model_->layers(), ids, main);
  for (const int32_t id : ids) sampler_.accept(id);
  if (rows.cols == n_embd) return;
  const std::vector<float> zeros(static_cast<size_t>(rows.cols - n_embd), 0.0f);
  const std::vector<int32_t> first(ids.size(), 0);
  const auto width = static_cast<int64_t>(zeros.size());
  const ConstMatrix zero_row(backend.upload(std::span<const float>(zeros)), Dtype::kF32, 1, width,
                             row_bytes(Dtype::kF32, width));
  const Matrix extra = {static_cast<float*>(rows.data) + n_embd, Dtype::kF32, rows.rows, width, rows.stride};
  backend.gather_rows({extra, zero_row, backend.upload(std::span<const int32_t>(first))}, "prompt rows");
}

void Generation::start(const RunControl& control) {
  timings_.load = model_->load_seconds();
  const std::vector<std::shared_ptr<const EncodedImage>> encoded = encode_images(control);
  std::vector<ConstMatrix> picture_rows;
  for (const auto& image : encoded) picture_rows.push_back(image->rows);
  if (options_.prune) {
    const Stopwatch watch;
    pruned_ = prune_sequence(*model_, plan_, image_plans_, picture_rows, *options_.prune, options_.max_tokens,
                             control);
    plan_ = pruned_->plan;
    timings_.prune = watch.seconds();
    check_fits(plan_.n_rows);
  }
  usage_.prompt_tokens = plan_.n_rows;
  usage_.visual_tokens = plan_.n_visual;
  position_ = plan_.next_position;

  const Stopwatch watch;
  const DecoderInfo& info = model_->decoder().info();
  const int64_t width = int64_t{info.n_embd} * (plan_.n_visual > 0 ? 1 + info.n_extra : 1);
  const int64_t stride = row_bytes(Dtype::kF32, width);
  const Buffer storage = model_->backend().buffer(static_cast<size_t>(plan_.n_rows * stride));
  const Matrix rows = {storage.data(), Dtype::kF32, plan_.n_rows, width, stride};
  fill_rows(picture_rows, rows);
  sequence_ = std::make_unique<Sequence>(model_);
  sequence_->reserve(plan_.n_rows + std::min(options_.max_tokens, kAnswerRows));
  kv_bytes_ = sequence_->kv_bytes();
  const double seen = std::accumulate(plan_.visible_end.begin(), plan_.visible_end.end(), 0.0);
  prefill_flops_ = static_cast<double>(plan_.n_rows) * info.flops_per_row +
                   4.0 * seen * info.n_layers * info.n_heads * info.head_dim;
  logits_.resize(static_cast<size_t>(info.n_vocab));
  const int64_t n_answer = std::min(
      {options_.max_tokens, model_->n_ctx() - plan_.n_rows, int64_t{INT32_MAX} - plan_.next_position});
  const auto n_positions = static_cast<int32_t>(plan_.next_position + n_answer);
  sequence_->prefill({rows, plan_.positions, plan_.visible_end, n_positions}, options_.chunk,
                     {logits_.data(), Dtype::kF32, 1, info.n_vocab, info.n_vocab * 4}, control);
  timings_.prefill = watch.seconds();
}

// One more token. The previous one enters the sequence here, not when it was chosen, so its text is out
// first.
std::string Generation::step(const RunControl& control) {
  const Stopwatch watch;
  if (!token_ids_.empty()) sequence_->append(token_ids_.back(), position_++, logits_, control);
  const int32_t id = sampler_.sample(logits_);
  timings_.decode += watch.seconds();
  if (model_->tokenizer().is_eog(id)) return finish("stop");

  sampler_.accept(id);
  token_ids_.push_back(id);
  usage_.completion_tokens = static_cast<int64_t>(token_ids_.size());
  held_ += stream_.push(id);
  if (const size_t at = find_stop(held_, options_.stop); at != std::string::npos) {
    held_.resize(at);
    finish_reason_ = "stop";
    return release(held_.size());
  }
  // The token just chosen will need a row of its own before the next one can be chosen.
  const bool full = sequence_->length() + 1 > model_->n_ctx();
  if (usage_.completion_tokens >= options_.max_tokens || full) return finish("length");
  return release(held_.size() - held_length(held_, options_.stop));
}

// Moves the first n bytes of what is held to the text that was handed out.
std::string Generation::release(size_t n) {
  std::string piece = held_.substr(0, n);
  held_.erase(0, n);
  text_ += piece;
  return piece;
}

std::string Generation::finish(const char* reason) {
  held_ += stream_.finish();
  finish_reason_ = reason;
  if (const size_t at = find_stop(held_, options_.stop); at != std::string::npos) {
    held_.resize(at);
    finish_reason_ = "stop";
  }
  return release(held_.size());
}

std::optional<std::string> Generation::next(const RunControl& outer) {
  if (done_) return std::nullopt;
  RunControl control = outer;
  control.cancelled = &cancelled_;
  try {
    if (!started_) {
      started_ = true;
      start(control);
    }
    std::string piece;
    while (piece.empty() && finish_reason_.empty()) {
      control.step("decode", usage_.completion_tokens, options_.max_tokens);
      piece = step(control);
    }
    if (!finish_reason_.empty()) close();
    if (piece.empty()) return std::nullopt;
    return piece;
  } catch (const Error& error) {
    close();
    if (error.code() != ErrorCode::kCancelled) throw;
    finish_reason_ = "cancelled";
    std::string piece = release(held_.size());
    if (piece.empty()) return std::nullopt;
    return piece;
  } catch (...) {
    // KeyboardInterrupt and its like pass through; the text so far stays readable.
    close();
    finish_reason_ = "cancelled";
    throw;
  }
}

void Generation::close() {
  done_ = true;
  sequence_.reset();
  images_.clear();
}

}  // namespace trimtok
