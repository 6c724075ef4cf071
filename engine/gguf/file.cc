#include "engine/gguf/file.h"

#include <cinttypes>
#include <cstdint>

#include "engine/gguf/mapping.h"
#include "engine/gguf/quote.h"
#include "engine/gguf/shard.h"

namespace trimtok {
namespace {

constexpr int64_t kMaxShards = 65535;  // split.count is a uint16 where writers follow the format

struct Split {
  int64_t no = 0;
  int64_t count = 1;
};

// Integer value of a split key; spec 1.7 wants them in every file of a split model.
int64_t split_value(const Shard& shard, const std::string& path, std::string_view key, int64_t min,
                    int64_t max) {
  const auto found = shard.key_index.find(key);
  if (found == shard.key_index.end()) {
    fail(ErrorCode::kFormat, "[gguf] %s: key %s is missing, expected in every file of a split model",
         quote_path(path).c_str(), quote_text(key).c_str());
  }
  const MetaValue& value = shard.metadata[found->second].second;
  const auto* number = std::get_if<int64_t>(&value);
  if (number == nullptr || *number < min || *number > max) {
    fail(ErrorCode::kFormat, "[gguf] %s: key %s is %s, expected an integer from %" PRId64 " to %" PRId64,
         quote_path(path).c_str(), quote_text(key).c_str(), describe(value).c_str(), min, max);
  }
  return *number;
}

std::string shard_suffix(int64_t no, int64_t count) {
  return format("-%05" PRId64 "-of-%05" PRId64 ".gguf", no + 1, count);
}

// The part of `path` in front of the suffix that every shard has.
std::string shard_prefix(const std::string& path, const Split& split) {
  const std::string suffix = shard_suffix(split.no, split.count);
  if (!path.ends_with(suffix)) {
    fail(ErrorCode::kFormat,
         "[gguf] %s: the file says it is number %" PRId64 " of %" PRId64
         " (split.no, split.count), expected a name that ends in %s; restore the original file names",
         quote_path(path).c_str(), split.no + 1, split.count, suffix.c_str());
  }
  return path.substr(0, path.size() - suffix.size());
}

Split read_split(const Shard& shard, const std::string& path) {
  Split split;
  if (!shard.key_index.contains("split.count")) return split;
  split.count = split_value(shard, path, "split.count", 0, kMaxShards);
  if (split.count <= 1) return Split{};
  split.no = split_value(shard, path, "split.no", 0, split.count - 1);
  return split;
}

}  // namespace

struct GgufFile::Mapping : MappedFile {
  using MappedFile::MappedFile;
};

GgufFile::~GgufFile() = default;

void GgufFile::release_pages() const noexcept {
  for (const auto& map : maps_) map->release_pages();
}

size_t GgufFile::n_pieces() const noexcept {
  size_t n = 0;
  for (const auto& map : maps_) n += map->n_pieces();
  return n;
}

void GgufFile::replace_piece(size_t i) const {
  for (const auto& map : maps_) {
    if (i < map->n_pieces()) return map->replace(i * MappedFile::kPiece);
    i -= map->n_pieces();
  }
}

Shard GgufFile::map_file(const std::string& path, const std::string& role) {
  maps_.push_back(std::make_unique<Mapping>(path, role));
  file_bytes_ += maps_.back()->bytes().size();
  return parse_shard(maps_.back()->bytes(), path);
}

// Takes over the tensors of a file, and the metadata if it is the first.
void GgufFile::adopt(Shard shard) {
  const std::string& path = maps_.back()->path();
  const auto n_shard = static_cast<int32_t>(maps_.size()) - 1;
  if (n_shard == 0) {
    version_ = shard.version;
    metadata_ = std::move(shard.metadata);
    stored_types_ = std::move(shard.stored_types);
    key_index_ = std::move(shard.key_index);
  }
  for (TensorInfo& tensor : shard.tensors) {
    const auto [at, is_new] = tensor_index_.emplace(tensor.name, tensors_.size());
    if (!is_new) {
      fail(ErrorCode::kFormat, "[gguf] %s: tensor %s is also in %s, expected in one file of the model only",
           quote_path(path).c_str(), quote_text(tensor.name).c_str(),
           quote_path(maps_[static_cast<size_t>(tensors_[at->second].shard)]->path()).c_str());
    }
    tensor.shard = n_shard;
    tensors_.push_back(std::move(tensor));
  }
  for (const std::string& warning : shard.warnings) warnings_.push_back(quote_path(path) + ": " + warning);
}

void GgufFile::open_other_shards(const std::string& prefix, int64_t count) {
  for (int64_t no = 1; no < count; ++no) {
    const std::string path = prefix + shard_suffix(no, count);
    Shard shard = map_file(path, format("file %" PRId64 " of %" PRId64 " of this model, ", no + 1, count));
    split_value(shard, path, "split.no", no, no);
    split_value(shard, path, "split.count", count, count);
    adopt(std::move(shard));
  }
}

std::shared_ptr<const GgufFile> GgufFile::open(const std::string& path) {
  std::shared_ptr<GgufFile> self(new GgufFile());
  self->path_ = path;
  Shard first = self->map_file(path, "");
  const Split split = read_split(first, path);
  if (split.count > 1) {
    const std::string prefix = shard_prefix(path, split);
    if (split.no != 0) {
      fail(ErrorCode::kInvalidArgument,
           "[gguf] %s is file %" PRId64 " of %" PRId64 ", expected the first; open %s",
           quote_path(path).c_str(), split.no + 1, split.count,
           quote_path(prefix + shard_suffix(0, split.count)).c_str());
    }
    const int64_t n_tensors = split_value(first, path, "split.tensors.count", 0, INT32_MAX);
    self->adopt(std::move(first));
    self->open_other_shards(prefix, split.count);
    if (static_cast<int64_t>(self->tensors_.size()) != n_tensors) {
      fail(ErrorCode::kFormat,
           "[gguf] %s: its %" PRId64 " files hold %zu tensors, expected %" PRId64 " (split.tensors.count)",
           quote_path(path).c_str(), split.count, self->tensors_.size(), n_tensors);
    }
  } else {
    self->adopt(std::move(first));
  }
  self->check_size();
  return self;
}

void GgufFile::check_size() const {
  for (const auto& map : maps_) map->check_size();
}

const MetaValue* GgufFile::find(std::string_view key) const {
  const auto at = key_index_.find(key);
  return at == key_index_.end() ? nullptr : &metadata_[at->second].second;
}

const TensorInfo* GgufFile::find_tensor(std::string_view name) const {
  const auto at = tensor_index_.find(name);
  return at == tensor_index_.end() ? nullptr : &tensors_[at->second];
}

bool GgufFile::has_tensor_prefix(std::string_view prefix) const {
  const auto at = tensor_index_.lower_bound(prefix);
  return at != tensor_index_.end() && at->first.starts_with(prefix);
}

}  // namespace trimtok
