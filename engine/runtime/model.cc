#include "engine/runtime/model.h"

#include <algorithm>
#include <chrono>

#include "engine/core/error.h"
#include "engine/runtime/device.h"

namespace trimtok {
namespace {

constexpr int64_t kMaxContext = int64_t{1} << 24;
constexpr int64_t kLeastRows = 512;  // of cache, without which a model is not loaded

void check_widths(const ModelFiles& files, const Tower& tower, const Decoder& decoder) {
  const TowerInfo& vision = tower.info();
  const DecoderInfo& language = decoder.info();
  if (vision.n_embd == language.n_embd && vision.n_extra == language.n_extra) return;
  fail(ErrorCode::kInvalidArgument,
       "[mmproj] %s makes rows of width %d (+%d extra), %s takes rows of width %d (+%d extra): these two "
       "files "
       "do not belong together",
       files.vision->path().c_str(), vision.n_embd, vision.n_extra, files.lm->path().c_str(), language.n_embd,
       language.n_extra);
}

}  // namespace

std::shared_ptr<Model> Model::load(const ModelOptions& options, const RunControl& control) {
  const auto start = std::chrono::steady_clock::now();
  if (options.n_ctx < 0 || options.n_ctx > kMaxContext) {
    fail(ErrorCode::kInvalidArgument, "[n_ctx] is %lld, must be in [1, %lld]",
         static_cast<long long>(options.n_ctx), static_cast<long long>(kMaxContext));
  }
  std::shared_ptr<Model> model(new Model);
  constexpr int64_t kSteps = 4;
  model->kv_dtype_ = kv_dtype_from_name(options.kv_dtype.c_str());
  DeviceChoice choice = choose_device(options.device, options.n_threads, options.n_threads_batch,
                                      compute_policy_from_name(options.compute.c_str()));
  model->backend_ = std::move(choice.backend);
  model->device_note_ = std::move(choice.note);
  model->image_cache_ = std::make_unique<ImageCache>(options.image_cache_bytes);
  control.step("load", 0, kSteps);
  model->files_ = find_model_files(options.path, options.mmproj);
  control.step("load", 1, kSteps);
  model->decoder_ = load_decoder(model->files_.lm);
  const DecoderInfo& info = model->decoder_->info();
  if (row_bytes(model->kv_dtype_, info.head_dim) < 0) {
    fail(ErrorCode::kUnsupported, "[kv_dtype] %s needs heads a multiple of 32 wide, %s has %d; use f16",
         options.kv_dtype.c_str(), model->files_.lm->path().c_str(), info.head_dim);
  }
  model->tokenizer_ = Tokenizer::from_gguf(*model->files_.lm, info.n_vocab);
  control.step("load", 2, kSteps);
  if (model->files_.vision != nullptr) {
    model->tower_ = load_tower(model->files_.vision);
    check_widths(model->files_, *model->tower_, *model->decoder_);
  }
  model->n_ctx_ = options.n_ctx == 0 ? model->decoder_->info().n_ctx_train : options.n_ctx;
  if (!model->backend_->on_host()) {
    model->move_to_device(options);
  } else if (options.gpu_layers >= 0 && options.device == "cpu") {
    fail(ErrorCode::kInvalidArgument, "[gpu_layers] is %d, but device is cpu; leave one of them out",
         options.gpu_layers);
  }
  model->move_weights(options.residency);
  control.step("load", kSteps, kSteps);
  model->load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return model;
}

void Model::move_weights(Residency residency) {
  WeightMover::Files files = {files_.lm};
  if (files_.vision != nullptr && files_.vision != files_.lm) files.push_back(files_.vision);
  mover_ =
      std::make_unique<WeightMover>(std::move(files), backend_->on_host() ? residency : Residency::kMapped);
}

// Everything was bound to the mapped files so far, which costs nothing and tells what the device must hold.
void Model::move_to_device(const ModelOptions& options) {
  const int32_t n_layers = decoder_->info().n_layers;
  if (options.gpu_layers > n_layers) {
    fail(ErrorCode::kInvalidArgument, "[gpu_layers] is %d, must be in [0, %d], the layers of %s",
         options.gpu_layers, n_layers, files_.lm->path().c_str());
  }
  placement_.memory = backend_->memory();
  if (options.gpu_layers >= 0 && options.gpu_layers < n_layers) {
    placement_.n_layers = options.gpu_layers;
    host_ = Backend::cpu(backend_->n_threads(), compute_policy_from_name(options.compute.c_str()));
  }
  check_memory();
  decoder_ = load_decoder(files_.lm, placement_);
  if (tower_ != nullptr) tower_ = load_tower(files_.vision, placement_.memory);
  if (host_ == nullptr) files_.lm->release_pages();
  if (files_.vision != nullptr && files_.vision != files_.lm) files_.vision->release_pages();
}

// The least that a model is loaded for: one batch of prompt, one picture.
void Model::check_memory() const {
  const MemoryPlan plan = this->plan(tower_ != nullptr ? 1 : 0, std::min<int64_t>(n_ctx_, kLeastRows));
  const size_t budget = memory_budget(placement_.memory);
  if (plan.total() <= budget) return;
  const auto mib = [](size_t bytes) { return static_cast<double>(bytes) / 1048576.0; };
  // How many layers there is room for beside everything that does not depend on them.
  size_t rest = plan.total() - plan.weights;
  int32_t n_fit = 0;
  for (const size_t bytes : decoder_->info().layer_bytes) {
    rest += bytes;
    if (rest > budget) break;
    ++n_fit;
  }
  n_fit = std::min(n_fit, decoder_->info().n_layers - 1);  // with all of them come the tables
  fail(ErrorCode::kOutOfMemory,
       "[device] %s has %.1f MiB for this model, which needs %.1f MiB with %lld rows of context: language "
       "model "
       "%.1f, vision tower %.1f, cache %.1f, rows %.1f, scratch %.1f; use gpu_layers=%d or less, or "
       "device=\"cpu\"",
       placement_.memory->name(), mib(budget), mib(plan.total()),
       static_cast<long long>(std::min<int64_t>(n_ctx_, kLeastRows)), mib(plan.weights), mib(plan.tower),
       mib(plan.kv), mib(plan.rows), mib(plan.scratch), n_fit);
}

MemoryPlan Model::plan(int64_t n_images, int64_t n_ctx, int32_t width, int32_t height) const {
  return plan_memory({decoder_.get(), tower_.get(), placement_, kv_dtype_, n_images, n_ctx, width, height});
}

int32_t Model::gpu_layers() const {
  if (placement_.memory == nullptr) return 0;
  return std::min(placement_.n_layers, decoder_->info().n_layers);
}

const Tower& Model::require_tower() const {
  if (tower_ != nullptr) return *tower_;
  fail(ErrorCode::kInvalidArgument,
       "[images] %s is a text-only model; give its projector file with mmproj=\"...\" or send no images",
       files_.lm->path().c_str());
}

std::shared_ptr<const Tower> Model::tower_with(const ViewOptions& options) const {
  require_tower();
  return options.min_pixels == 0 && options.max_pixels == 0 ? tower_ : tower_->with_options(options);
}

}  // namespace trimtok
