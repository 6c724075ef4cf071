// Which file is the language model and which the vision part (spec 3.1-3.4).
#include <algorithm>
#include <charconv>
#include <cinttypes>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "engine/core/error.h"
#include "engine/gguf/file.h"
#include "engine/gguf/quote.h"

namespace trimtok {
namespace {

namespace fs = std::filesystem;
using FilePtr = std::shared_ptr<const GgufFile>;

constexpr int64_t kMaxWidth = int64_t{1} << 24;

bool has_key_prefix(const GgufFile& file, std::string_view prefix) {
  return std::any_of(file.metadata().begin(), file.metadata().end(),
                     [prefix](const auto& item) { return item.first.starts_with(prefix); });
}

// Language model architectures that a projector was made for (spec 8.9); empty: any.
std::vector<std::string_view> partners(std::string_view projector) {
  if (projector == "qwen2vl_merger" || projector == "qwen2.5vl_merger") return {"qwen2vl"};
  if (projector == "qwen3vl_merger") return {"qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe"};
  if (projector == "gemma3") return {"gemma3"};
  if (projector == "idefics3") return {"llama"};
  if (projector == "internvl") return {"qwen2", "qwen3", "qwen3moe", "llama", "internlm2"};
  return {};
}

int64_t lm_width(const GgufFile& lm) {
  return lm.get_int(lm.get_string("general.architecture") + ".embedding_length", 1, kMaxWidth);
}

// Empty when the two fit, else what speaks against it.
std::string width_problem(const GgufFile& lm, const GgufFile& vision) {
  const int64_t produced = projector_width(vision);
  const int64_t wanted = lm_width(lm);
  if (produced == 0 || produced == wanted) return "";
  return format("the projector in %s produces rows of width %" PRId64
                ", but the language model in %s takes rows of width %" PRId64,
                quote_path(vision.path()).c_str(), produced, quote_path(lm.path()).c_str(), wanted);
}

std::string family_problem(const GgufFile& lm, const GgufFile& vision) {
  const std::string projector = projector_type(vision);
  const std::string& arch = lm.get_string("general.architecture");
  const std::vector<std::string_view> known = partners(projector);
  if (known.empty() || std::find(known.begin(), known.end(), arch) != known.end()) return "";
  return format(
      "the projector in %s is of type %s, which was not made for a language model of architecture %s",
      quote_path(vision.path()).c_str(), quote_text(projector).c_str(), quote_text(arch).c_str());
}

void check_has_tower(const GgufFile& vision) {
  if (!vision.has_tensor_prefix("v.")) {
    fail(ErrorCode::kUnsupported, "[model files] %s holds no vision tower (no tensor 'v.*'), expected one",
         quote_path(vision.path()).c_str());
  }
}

FilePtr open_lm(const std::string& path) {
  FilePtr file = GgufFile::open(path);
  const std::string name = quote_path(path);
  switch (file_kind(*file)) {
    case FileKind::kProjector:
      fail(ErrorCode::kInvalidArgument,
           "[model files] %s is a projector (mmproj) file, expected a language model; pass the language "
           "model as the "
           "model and this file as mmproj",
           name.c_str());
    case FileKind::kMonolithic:
      fail(ErrorCode::kUnsupported,
           "[model files] %s is an Ollama single-file model (vision keys under '%s.vision'), expected a "
           "language model "
           "with a separate mmproj file or a combined file; get the two-file release of this model",
           name.c_str(), file->get_string("general.architecture").c_str());
    case FileKind::kLanguageModel:
    case FileKind::kCombined:
      break;
  }
  return file;
}

FilePtr open_projector(const std::string& path) {
  FilePtr file = GgufFile::open(path);
  const FileKind kind = file_kind(*file);
  if (kind != FileKind::kProjector) {
    fail(ErrorCode::kInvalidArgument,
         "[model files] mmproj %s is %s, expected a projector file (general.architecture 'clip')",
         quote_path(path).c_str(),
         kind == FileKind::kLanguageModel ? "a language model without a vision part"
                                          : "a whole model; leave mmproj out");
  }
  check_has_tower(*file);
  return file;
}

// Opens a file that happens to lie beside the model; damaged ones are no reason to fail.
FilePtr try_projector(const std::string& path, std::vector<std::string>& notes) {
  try {
    FilePtr file = GgufFile::open(path);
    return file_kind(*file) == FileKind::kProjector ? file : nullptr;
  } catch (const Error& error) {
    notes.push_back(std::string("passed over: ") + error.what());
    return nullptr;
  }
}

// A search must not guess, so it asks for more than an explicit mmproj has to fulfil.
std::string search_problem(const GgufFile& lm, const GgufFile& vision) {
  if (!vision.has_tensor_prefix("v.")) return quote_path(vision.path()) + " holds no vision tower";
  if (projector_width(vision) == 0) return quote_path(vision.path()) + " has an unknown kind of projector";
  const std::string problem = width_problem(lm, vision);
  return problem.empty() ? family_problem(lm, vision) : problem;
}

bool is_later_shard(std::string_view name) {
  // "-00002-of-00003.gguf": opened through its first file, if at all.
  constexpr size_t kSuffix = 20;
  if (name.size() < kSuffix) return false;
  const std::string_view tail = name.substr(name.size() - kSuffix);
  return tail[0] == '-' && tail.substr(6, 4) == "-of-" && tail.substr(1, 5) != "00001";
}

std::vector<std::string> gguf_files_beside(const fs::path& model) {
  std::vector<std::string> paths;
  std::error_code error;
  const fs::path folder = model.has_parent_path() ? model.parent_path() : fs::path(".");
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->path().extension() != ".gguf" || !it->is_regular_file(ignored)) continue;
    if (fs::equivalent(it->path(), model, ignored) || is_later_shard(it->path().filename().string()))
      continue;
    paths.push_back((model.has_parent_path() ? it->path() : it->path().filename()).string());
  }
  if (error) {
    fail(ErrorCode::kIo,
         "[model files] cannot list the folder of %s to look for an mmproj file: %s; pass mmproj",
         quote_path(model.string()).c_str(), error.message().c_str());
  }
  std::sort(paths.begin(), paths.end());  // the order of a folder is arbitrary, messages must not be
  return paths;
}

FilePtr search_folder(const GgufFile& lm, std::vector<std::string>& notes) {
  std::vector<FilePtr> found;
  for (const std::string& path : gguf_files_beside(lm.path())) {
    FilePtr file = try_projector(path, notes);
    if (file == nullptr) continue;
    const std::string problem = search_problem(lm, *file);
    if (problem.empty()) {
      found.push_back(std::move(file));
    } else {
      notes.push_back("passed over: " + problem);
    }
  }
  if (found.size() > 1) {
    std::string list;
    for (const FilePtr& file : found) list += (list.empty() ? "" : ", ") + quote_path(file->path());
    fail(ErrorCode::kInvalidArgument,
         "[model files] %zu projector files beside %s fit it, expected one: %s; pass mmproj to choose",
         found.size(), quote_path(lm.path()).c_str(), list.c_str());
  }
  return found.empty() ? nullptr : found[0];
}

}  // namespace

FileKind file_kind(const GgufFile& file) {
  const MetaValue* value = file.find("general.architecture");
  const auto* arch = value == nullptr ? nullptr : std::get_if<std::string>(value);
  const bool vision = file.has_tensor_prefix("v.");
  if (arch != nullptr && *arch == "clip") return FileKind::kProjector;
  if (file.find_tensor("token_embd.weight") == nullptr && (vision || file.has_tensor_prefix("mm."))) {
    return FileKind::kProjector;
  }
  if (vision && has_key_prefix(file, "clip.")) return FileKind::kCombined;
  if (arch != nullptr && file.has(*arch + ".vision.block_count")) return FileKind::kMonolithic;
  return FileKind::kLanguageModel;
}

std::string projector_type(const GgufFile& file) {
  for (const char* key : {"clip.projector_type", "clip.vision.projector_type"}) {
    if (file.has(key)) {
      const std::string& type = file.get_string(key);
      return type == "qwen2.5o" ? "qwen2.5vl_merger" : type;  // Omni: its vision half (spec 3.4, point 5)
    }
  }
  if (file.get_bool("clip.has_qwen2vl_merger", false)) return "qwen2vl_merger";
  if (file.get_bool("clip.has_llava_projector", false) || file.find_tensor("mm.0.weight") != nullptr ||
      file.find_tensor("mm.2.weight") != nullptr) {
    return "mlp";
  }
  return "";
}

int64_t projector_width(const GgufFile& file) {
  // Stored as the transpose of a normal linear (spec 8.7).
  if (const TensorInfo* t = file.find_tensor("mm.input_projection.weight")) return t->ne[0];
  for (const char* name : {"mm.model.fc.weight", "mm.model.mlp.3.weight"}) {
    if (const TensorInfo* t = file.find_tensor(name)) return t->ne[1];
  }
  // "mm.<n>.weight": the last matrix; norms among them are vectors.
  int64_t width = 0;
  int last = -1;
  for (const TensorInfo& tensor : file.tensors()) {
    constexpr std::string_view kPrefix = "mm.";
    const std::string_view name = tensor.name;
    if (!name.starts_with(kPrefix) || tensor.ne[1] <= 1) continue;
    int n = -1;
    const auto [end, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), n);
    if (error != std::errc() || std::string_view(end, name.data() + name.size()) != ".weight" || n <= last)
      continue;
    last = n;
    width = tensor.ne[1];
  }
  return width;
}

ModelFiles find_model_files(const std::string& path, const std::string& mmproj) {
  ModelFiles files;
  files.lm = open_lm(path);
  if (!mmproj.empty()) {
    files.vision = open_projector(mmproj);
  } else if (file_kind(*files.lm) == FileKind::kCombined) {
    files.vision = files.lm;
  } else {
    files.vision = search_folder(*files.lm, files.notes);
  }
  if (files.vision == nullptr) return files;

  const std::string problem = width_problem(*files.lm, *files.vision);
  if (!problem.empty()) {
    const bool one_file = files.vision == files.lm;
    fail(one_file ? ErrorCode::kFormat : ErrorCode::kInvalidArgument, "[model files] %s; %s", problem.c_str(),
         one_file ? "the file is damaged" : "pass the mmproj file that was made for this language model");
  }
  const std::string doubt = family_problem(*files.lm, *files.vision);
  if (!doubt.empty()) files.notes.push_back(doubt);
  return files;
}

}  // namespace trimtok
