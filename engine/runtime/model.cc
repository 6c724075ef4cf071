#include "engine/runtime/model.h"

#include <chrono>

#include "engine/core/error.h"

namespace trimtok {
namespace {

constexpr int64_t kMaxContext = int64_t{1} << 24;

std::unique_ptr<Backend> make_backend(const ModelOptions& options) {
  if (options.device != "auto" && options.device != "cpu" && options.device != "cuda") {
    fail(ErrorCode::kInvalidArgument, "[device] is \"%s\", must be one of auto, cpu, cuda",
         options.device.c_str());
  }
  if (options.device == "cuda") {
    const char* reason = nullptr;
    cuda_table(&reason);
    fail(ErrorCode::kUnsupported, "[device] cuda cannot be used: %s; use device=\"cpu\"", reason);
  }
  const int32_t n_threads = options.n_threads == 0 ? ThreadPool::default_n_threads() : options.n_threads;
  return Backend::cpu(options.n_threads_batch == 0 ? n_threads : options.n_threads_batch,
                      compute_policy_from_name(options.compute.c_str()), n_threads);
}

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
  model->backend_ = make_backend(options);
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
  control.step("load", kSteps, kSteps);
  model->n_ctx_ = options.n_ctx == 0 ? model->decoder_->info().n_ctx_train : options.n_ctx;
  model->load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return model;
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
