#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "engine/runtime/generation.h"
#include "engine/runtime/model.h"
#include "engine/runtime/prompt.h"
#include "engine/runtime/sequence.h"
#include "python/bindings/convert.h"
#include "python/bindings/module.h"
#include "python/bindings/prune_report.h"

namespace py = pybind11;
using namespace py::literals;

namespace trimtok::python {
namespace {

using Clock = std::chrono::steady_clock;
using ModelPtr = std::shared_ptr<Model>;

// Lets Python run between layers: signals every 20 ms (Ctrl-C must feel immediate), progress every 50 ms
// (a terminal shows no more). Called without the GIL.
RunControl make_control(const std::optional<py::function>& progress) {
  RunControl control;
  control.poll = [last = Clock::now()]() mutable {
    const Clock::time_point now = Clock::now();
    if (now - last < std::chrono::milliseconds(20)) return;
    last = now;
    py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  };
  if (progress) {
    // The function is borrowed: its owner outlives the call, and copying it needs the GIL.
    control.progress = [callback = progress->ptr(), last = Clock::time_point(), last_phase = std::string()](
                           const char* phase, int64_t done, int64_t total) mutable {
      const Clock::time_point now = Clock::now();
      if (phase == last_phase && done != total && now - last < std::chrono::milliseconds(50)) return;
      last = now;
      last_phase = phase;
      py::gil_scoped_acquire gil;
      py::reinterpret_borrow<py::function>(callback)(phase, done, total);
    };
  }
  return control;
}

ModelPtr load_model(const std::string& path, const std::string& mmproj, const std::string& device,
                    int32_t gpu_layers, const std::string& kv_dtype, const std::string& compute,
                    int64_t n_ctx, int32_t n_threads, int32_t n_threads_batch, size_t image_cache_bytes,
                    std::optional<bool> mmap, const std::optional<py::function>& progress) {
  const RunControl control = make_control(progress);
  const Residency residency = !mmap ? Residency::kAuto : *mmap ? Residency::kMapped : Residency::kMemory;
  py::gil_scoped_release release;
  return Model::load({path, mmproj, device, gpu_layers, kv_dtype, compute, n_ctx, n_threads, n_threads_batch,
                      image_cache_bytes, residency},
                     control);
}

py::object token_text(const Tokenizer& tokenizer, int32_t id) {
  return py::bytes(id < 0 ? std::string() : tokenizer.text(id)).attr("decode")("utf-8", "replace");
}

py::object string_key(const GgufFile& file, const std::string& key) {
  if (!file.has(key)) return py::none();
  return py::bytes(file.get_string(key)).attr("decode")("utf-8", "replace");
}

py::dict template_dict(const GgufFile& file) {
  py::dict out;
  if (const auto* names = file.find_strings("tokenizer.chat_templates")) {
    for (const std::string& name : *names) {
      const std::string key = "tokenizer.chat_template." + name;
      if (file.has(key)) out[py::str(name)] = string_key(file, key);
    }
  }
  return out;
}

py::dict vision_dict(const TowerInfo& info) {
  return py::dict("projector"_a = info.projector, "family"_a = info.family, "n_layers"_a = info.n_layers,
                  "width"_a = info.width, "patch_size"_a = info.patch_size, "image_size"_a = info.image_size,
                  "n_embd"_a = info.n_embd, "weight_bytes"_a = info.weight_bytes);
}

// {"Q4_K": {"few_rows": "int8", "many_rows": "int8"}, ...} for every type of weight in the model's files.
py::dict compute_dict(Model& model) {
  constexpr int64_t kMany = 512;
  py::dict out;
  const auto add = [&](const GgufFile& file) {
    for (const TensorInfo& tensor : file.tensors()) {
      const DtypeInfo* info = dtype_info(tensor.dtype);
      if (info->use != DtypeUse::kWeight || tensor.n_dims < 2) continue;
      out[info->name] =
          py::dict("few_rows"_a = compute_name(model.backend().compute_for(tensor.dtype, 1)),
                   "many_rows"_a = compute_name(model.backend().compute_for(tensor.dtype, kMany)));
    }
  };
  add(model.lm_file());
  if (model.vision_file() != nullptr) add(*model.vision_file());
  return out;
}

py::dict model_info(Model& model) {
  const DecoderInfo& decoder = model.decoder().info();
  const Tokenizer& tokenizer = model.tokenizer();
  const TowerInfo* vision = model.tower() != nullptr ? &model.tower()->info() : nullptr;
  py::list specials;
  for (int32_t id = 0; id < tokenizer.n_tokens(); ++id) {
    if (tokenizer.type(id) == TokenType::kControl) specials.append(token_text(tokenizer, id));
  }
  py::list warnings;
  for (const std::string& text : model.lm_file().warnings()) warnings.append(text);
  for (const std::string& text : model.notes()) warnings.append(text);
  for (const std::string& text : tokenizer.warnings()) warnings.append(text);
  py::dict out;
  out["arch"] = decoder.arch;
  out["family"] = vision != nullptr ? py::object(py::str(vision->family)) : py::none();
  out["projector"] = vision != nullptr ? py::object(py::str(vision->projector)) : py::none();
  out["device"] = model.backend().device();
  out["device_name"] = model.backend().device_name();
  out["device_note"] = model.device_note();
  out["gpu_layers"] = model.gpu_layers();
  out["isa"] = isa_name(model.backend().ops().isa);
  out["compute"] = compute_policy_name(model.backend().compute());
  // What a device multiplies with depends on more than the weight: docs/cuda.md.
  out["compute_by_weight"] = model.backend().on_host() ? compute_dict(model) : py::dict();
  out["weights"] = model.mover().state();
  out["weights_note"] = model.mover().note();
  out["n_threads"] = model.backend().n_threads_decode();
  out["n_threads_batch"] = model.backend().n_threads();
  out["n_ctx"] = model.n_ctx();
  out["n_ctx_train"] = decoder.n_ctx_train;
  out["n_embd"] = decoder.n_embd;
  out["n_layers"] = decoder.n_layers;
  out["n_vocab"] = decoder.n_vocab;
  out["kv_dtype"] = dtype_info(model.kv_dtype())->name;
  out["weight_bytes"] = decoder.weight_bytes + (vision != nullptr ? vision->weight_bytes : 0);
  out["vision"] = vision != nullptr ? py::object(vision_dict(*vision)) : py::none();
  out["chat_template"] = string_key(model.lm_file(), "tokenizer.chat_template");
  out["chat_templates"] = template_dict(model.lm_file());
  out["fallback_template"] = vision != nullptr ? vision->fallback_template : "";
  out["placeholder"] = vision != nullptr ? py::object(py::str(vision->placeholder)) : py::none();
  out["frames_per_group"] = vision != nullptr ? vision->frames_per_group : 1;
  out["composite_alpha"] = vision != nullptr && vision->composite_alpha;
  out["bos_token"] = token_text(tokenizer, tokenizer.bos());
  out["eos_token"] = token_text(tokenizer, tokenizer.eos());
  out["add_bos"] = tokenizer.add_bos();
  out["special_texts"] = specials;
  out["lm_path"] = model.lm_file().path();
  const bool combined = model.vision_file() == &model.lm_file();
  out["combined"] = combined;
  out["mmproj_path"] = model.vision_file() == nullptr || combined
                           ? py::object(py::none())
                           : py::object(py::str(model.vision_file()->path()));
  out["warnings"] = warnings;
  const StepCounts& steps = model.backend().steps();
  out["decode_steps"] = py::dict("recorded"_a = steps.recorded.load(), "replayed"_a = steps.replayed.load(),
                                 "op_by_op"_a = steps.op_by_op.load());
  out["load_seconds"] = model.load_seconds();
  return out;
}

py::dict memory_dict(const Model& model, int64_t n_images, int64_t n_ctx, int32_t width, int32_t height) {
  check_image_size(width, height);
  MemoryPlan plan;
  {
    const py::gil_scoped_release release;
    plan = model.plan(n_images, n_ctx, width, height);
  }
  return py::dict("weights"_a = plan.weights, "tower"_a = plan.tower, "kv"_a = plan.kv, "rows"_a = plan.rows,
                  "scratch"_a = plan.scratch, "host"_a = plan.host, "total"_a = plan.total(),
                  "image_rows"_a = plan.image_rows, "used"_a = model.bytes_in_use(),
                  "available"_a = memory_budget(model.placement().memory));
}

PositionChoice position_choice(const std::string& name) {
  if (name == "auto") return PositionChoice::kAuto;
  if (name == "original") return PositionChoice::kOriginal;
  if (name == "compact") return PositionChoice::kCompact;
  fail(ErrorCode::kInvalidArgument, "[positions] is \"%.32s\", must be auto, original or compact",
       name.c_str());
}

py::array_t<int32_t> int_array(const std::vector<int32_t>& values) {
  return py::array_t<int32_t>(static_cast<int64_t>(values.size()), values.data());
}

py::dict plan_prompt(const Model& model, const std::string& prompt,
                     const std::vector<std::pair<int32_t, int32_t>>& sizes, int64_t min_pixels,
                     int64_t max_pixels, double video_fps,
                     const std::optional<std::vector<std::vector<int32_t>>>& kept,
                     const std::string& policy) {
  std::vector<ImagePlan> plans;
  std::vector<PictureSize> pictures;
  for (const auto& [width, height] : sizes) {
    check_image_size(width, height);
    pictures.push_back({width, height});
  }
  std::shared_ptr<const Tower> tower;
  if (!pictures.empty()) tower = model.tower_with({min_pixels, max_pixels});
  std::string placed = prompt;
  if (tower != nullptr && video_fps > 0 && tower->info().frames_per_group > 1) {
    plans = plan_video(*tower, pictures, video_fps, placed);
  } else {
    for (const PictureSize& size : pictures) plans.push_back(tower->plan(size.width, size.height));
  }
  const bool bidirectional = model.tower() != nullptr && model.tower()->info().bidirectional;
  SequencePlan plan =
      plan_sequence(model.tokenizer(), placed, plans, bidirectional, model.decoder().info().n_pos);
  if (kept) {
    if (kept->size() != plans.size()) {
      fail(ErrorCode::kInvalidArgument, "[kept] has %zu lists, must have one per image: %zu", kept->size(),
           plans.size());
    }
    const bool compact = position_choice(policy) == PositionChoice::kCompact;
    plan = keep_rows(plan, kept_indices(plan, *kept),
                     compact ? PositionPolicy::kCompact : PositionPolicy::kOriginal);
  }
  py::list segments;
  int64_t start = 0;
  for (const Segment& segment : plan.segments) {
    py::dict item("start"_a = start, "count"_a = segment.size());
    if (segment.image < 0) {
      item["ids"] = segment.ids;
    } else {
      item["image"] = segment.image;
      item["row_start"] = segment.row_start;
    }
    start += segment.size();
    segments.append(item);
  }
  // [n], or [3, n] for a decoder whose positions have three components.
  py::array positions = int_array(plan.positions);
  if (plan.n_pos > 1) positions = positions.reshape({int64_t{plan.n_pos}, plan.n_rows});
  return py::dict("n_rows"_a = plan.n_rows, "n_visual"_a = plan.n_visual, "segments"_a = segments,
                  "positions"_a = positions, "visible_end"_a = int_array(plan.visible_end),
                  "next_position"_a = plan.next_position);
}

py::array_t<float> encode_image(Model& model, const py::array& array, int64_t min_pixels,
                                int64_t max_pixels) {
  const ArrayImage image(array);
  const RunControl control = make_control(std::nullopt);
  EncodedImage encoded;
  {
    py::gil_scoped_release release;
    std::lock_guard lock(model.compute_mutex());
    encoded = model.tower_with({min_pixels, max_pixels})->encode(model.backend(), image.view(), control);
  }
  return to_numpy(model.backend(), encoded.rows);
}

py::array_t<float> embed_ids(Model& model, const std::vector<int32_t>& ids) {
  const int32_t n_embd = model.decoder().info().n_embd;
  py::array_t<float> out({static_cast<int64_t>(ids.size()), int64_t{n_embd}});
  const Matrix view = {out.mutable_data(), Dtype::kF32, static_cast<int64_t>(ids.size()), n_embd, n_embd * 4};
  py::gil_scoped_release release;
  std::lock_guard lock(model.compute_mutex());
  const Arena::Mark mark(model.backend().arena());
  const Matrix rows = model.backend().output(view);
  model.decoder().embed(model.layers(), ids, rows);
  model.backend().fetch(view, rows);
  return out;
}

// The "rows + positions" entry: whatever rows the caller made, at whatever positions, causal unless told;
// then `ids`, one step each, at the positions that follow. Logits of the last n_last rows and of every id.
py::array_t<float> row_logits(const ModelPtr& model, const F32Array& rows, const I32Array& positions,
                              int64_t n_last, int64_t chunk, const std::optional<I32Array>& visible_end,
                              const std::vector<int32_t>& ids) {
  if (rows.ndim() != 2) fail(ErrorCode::kInvalidArgument, "[rows] must be float32 [n, n_embd]");
  if (n_last < 0 || n_last > rows.shape(0)) {
    fail(ErrorCode::kInvalidArgument, "[n_last] is %lld, must be in [0, %lld]",
         static_cast<long long>(n_last), static_cast<long long>(rows.shape(0)));
  }
  SequenceRows input;
  Buffer storage;
  input.rows = model->backend().upload(
      ConstMatrix(rows.data(), Dtype::kF32, rows.shape(0), rows.shape(1), rows.shape(1) * 4), storage);
  input.positions.assign(positions.data(), positions.data() + positions.size());
  input.visible_end.resize(static_cast<size_t>(rows.shape(0)));
  std::iota(input.visible_end.begin(), input.visible_end.end(), 1);
  if (visible_end) input.visible_end.assign(visible_end->data(), visible_end->data() + visible_end->size());
  const int64_t n_vocab = model->decoder().info().n_vocab;
  py::array_t<float> out({n_last + static_cast<int64_t>(ids.size()), n_vocab});
  float* values = out.mutable_data();
  const Matrix logits = {values, Dtype::kF32, n_last, n_vocab, n_vocab * 4};
  const RunControl control = make_control(std::nullopt);
  int32_t position = input.positions.empty() ? -1 : std::ranges::max(input.positions);
  if (position > INT32_MAX - static_cast<int64_t>(ids.size())) {
    fail(ErrorCode::kInvalidArgument, "[positions] reach %d, which leaves none for %zu ids", position,
         ids.size());
  }
  py::gil_scoped_release release;
  Sequence sequence(model);
  sequence.prefill(input, chunk, logits, control);
  values += n_last * n_vocab;
  for (const int32_t id : ids) {
    sequence.append(id, ++position, {values, static_cast<size_t>(n_vocab)}, control);
    values += n_vocab;
  }
  return out;
}

// The settings of _core.prune and, beside them, what needs a model: fit, kv_memory_mb, positions, text.
PruneRequest prune_request(const py::dict& given) {
  py::dict options = given.attr("copy")();
  const auto take = [&](const char* key, const py::object& fallback) {
    return py::object(options.attr("pop")(key, fallback));
  };
  PruneRequest request;
  request.positions = position_choice(py::cast<std::string>(take("positions", py::str("auto"))));
  request.text = py::cast<std::string>(take("text", py::str("")));
  const py::object limit = take("kv_memory_mb", py::none());
  if (!limit.is_none()) request.kv_memory_bytes = py::cast<int64_t>(limit) << 20;
  const bool fit = py::cast<bool>(take("fit", py::bool_(false)));
  if (fit) options["max_tokens"] = 1;  // the runtime knows the number once the prompt is planned
  request.options = prune_options(options);
  if (fit) request.options.budget = BudgetKind::kFit;
  return request;
}

// A Generation with the progress function that it reports to.
struct PyGeneration {
  std::unique_ptr<Generation> generation;
  std::optional<py::function> progress;
};

std::unique_ptr<PyGeneration> start_generation(
    const ModelPtr& model, const std::string& prompt, const std::vector<py::array>& arrays,
    int64_t max_tokens, float temperature, int32_t top_k, float top_p, float min_p, float repeat_penalty,
    uint64_t seed, std::vector<std::string> stop, int64_t chunk, const std::optional<py::dict>& pruning,
    std::vector<std::string> image_keys, int64_t min_pixels, int64_t max_pixels, double video_fps,
    std::optional<py::function> progress) {
  std::vector<Image> images;
  for (const py::array& array : arrays) {
    images.push_back(ArrayImage(array).copy());
  }
  GenerateOptions options;
  options.sampling = {temperature, top_k, top_p, min_p, repeat_penalty, seed};
  options.max_tokens = max_tokens;
  options.stop = std::move(stop);
  options.chunk = chunk;
  options.view = {min_pixels, max_pixels};
  options.video_fps = video_fps;
  if (pruning) options.prune = prune_request(*pruning);
  options.image_keys = std::move(image_keys);
  auto out = std::make_unique<PyGeneration>();
  out->generation = std::make_unique<Generation>(model, prompt, std::move(images), std::move(options));
  out->progress = std::move(progress);
  return out;
}

std::optional<std::string> next_piece(PyGeneration& self) {
  const RunControl control = make_control(self.progress);
  py::gil_scoped_release release;
  return self.generation->next(control);
}

py::object pruning_result(const Generation& g) {
  if (g.pruned() == nullptr) return py::none();
  py::dict out = to_dict(g.pruned()->result);
  out["positions"] = g.pruned()->positions == PositionPolicy::kOriginal ? "original" : "compact";
  py::list boxes;
  for (const ImagePlan& plan : g.image_plans()) boxes.append(to_dict(plan)["boxes"]);
  out["boxes"] = boxes;
  return out;
}

py::dict generation_result(const PyGeneration& self) {
  const Generation& g = *self.generation;
  const Usage& usage = g.usage();
  const Timings& timings = g.timings();
  return py::dict(
      "text"_a = g.text(), "token_ids"_a = g.token_ids(), "finish_reason"_a = g.finish_reason(),
      "usage"_a = py::dict("prompt_tokens"_a = usage.prompt_tokens, "visual_tokens"_a = usage.visual_tokens,
                           "completion_tokens"_a = usage.completion_tokens),
      "timings"_a = py::dict("load"_a = timings.load, "encode"_a = timings.encode, "prune"_a = timings.prune,
                             "prefill"_a = timings.prefill, "decode"_a = timings.decode),
      "pruning"_a = pruning_result(g), "kv_bytes"_a = g.kv_bytes(), "prefill_flops"_a = g.prefill_flops());
}

}  // namespace

void bind_model(py::module_& m) {
  py::class_<PyGeneration>(m, "Generation", "One answer being made.")
      .def("next", &next_piece,
           "The next piece of text, None at the end. The first call encodes and prefills.")
      .def(
          "cancel", [](PyGeneration& self) { self.generation->cancel(); },
          "Ends the generation; from any thread.")
      .def("result", &generation_result, "Text, ids, usage and timings so far.");

  py::class_<Model, ModelPtr>(m, "Model", "A loaded model; see trimtok_cpp.Model.")
      .def(py::init(&load_model), "path"_a, "mmproj"_a = "", "device"_a = "auto", "gpu_layers"_a = -1,
           "kv_dtype"_a = "f16", "compute"_a = "auto", "n_ctx"_a = 0, "n_threads"_a = 0,
           "n_threads_batch"_a = 0, "image_cache_bytes"_a = 0, "mmap"_a = py::none(),
           "progress"_a = py::none())
      .def("info", &model_info)
      .def("memory", &memory_dict, "n_images"_a, "n_ctx"_a, "width"_a, "height"_a,
           "Bytes that n_images pictures of this size and n_ctx rows of cache need, and those there are.")
      .def(
          "tokenize",
          [](const Model& model, const std::string& text, bool parse_special) {
            return model.tokenizer().encode(text, parse_special);
          },
          "text"_a, "parse_special"_a = true)
      .def(
          "detokenize",
          [](const Model& model, const std::vector<int32_t>& ids, bool print_special) {
            return py::bytes(model.tokenizer().decode(ids, print_special)).attr("decode")("utf-8", "replace");
          },
          "ids"_a, "print_special"_a = false)
      .def("plan", &plan_prompt, "prompt"_a, "sizes"_a, "min_pixels"_a = 0, "max_pixels"_a = 0,
           "video_fps"_a = 0.0, "kept"_a = py::none(), "policy"_a = "original")
      .def(
          "image_plan",
          [](const Model& model, int32_t width, int32_t height) {
            check_image_size(width, height);
            return to_dict(model.require_tower().plan(width, height));
          },
          "width"_a, "height"_a)
      .def(
          "preprocess",
          [](const Model& model, const py::array& array) {
            return to_numpy(model.require_tower().preprocess(ArrayImage(array).view()));
          },
          "image"_a)
      .def("encode", &encode_image, "image"_a, "min_pixels"_a = 0, "max_pixels"_a = 0)
      .def("embed", &embed_ids, "ids"_a)
      .def("logits", &row_logits, "rows"_a, "positions"_a, "n_last"_a = 1, "chunk"_a = 512,
           "visible_end"_a = py::none(), "ids"_a = std::vector<int32_t>())
      .def(
          "record_steps", &Model::set_recording, "on"_a,
          "Whether answers that begin from now on decode by recorded steps where they can; for measurements.")
      .def("generate", &start_generation, "prompt"_a, "images"_a, py::kw_only(), "max_tokens"_a,
           "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "repeat_penalty"_a, "seed"_a, "stop"_a,
           "chunk"_a = 512, "pruning"_a = py::none(), "image_keys"_a = std::vector<std::string>(),
           "min_pixels"_a = 0, "max_pixels"_a = 0, "video_fps"_a = 0.0, "progress"_a = py::none());
}

}  // namespace trimtok::python
