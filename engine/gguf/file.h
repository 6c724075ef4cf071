// Reads GGUF v2/v3: maps the file, checks every length, count, offset and type before use.
// A file is hostile until this class has accepted it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "trimtok/view.h"

namespace trimtok {

// Metadata is widened on reading: writers disagree about integer widths, readers should not have to care.
using MetaArray =
    std::variant<std::vector<int64_t>, std::vector<double>, std::vector<bool>, std::vector<std::string>>;
using MetaValue = std::variant<int64_t, double, bool, std::string, MetaArray>;

// The GGUF value type ids of a key as the file has them (element: -1 when it is no array). For tools that
// show or copy metadata; the engine reads the widened values.
struct StoredType {
  int32_t type = 0;
  int32_t element = -1;
};

struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::kF32;
  int32_t n_dims = 0;
  int64_t ne[4] = {1, 1, 1, 1};     // GGUF order: ne[0] is contiguous. engine/gguf/weights turns it around.
  const std::byte* data = nullptr;  // aligned to 8 at least; null when a dimension is 0
  size_t bytes = 0;
  int32_t shard = 0;
};

struct Shard;  // one file of a split model, engine/gguf/shard.h

class GgufFile {
 public:
  // Opens a file; when its name ends in -00001-of-0000N.gguf and split.count says so, all its shards.
  // Throws Error(kIo | kFormat | kUnsupported) naming file, field, value and what was expected.
  static std::shared_ptr<const GgufFile> open(const std::string& path);
  ~GgufFile();

  const std::string& path() const noexcept { return path_; }
  uint32_t version() const noexcept { return version_; }
  uint64_t file_bytes() const noexcept { return file_bytes_; }  // all shards
  int32_t n_shards() const noexcept { return static_cast<int32_t>(maps_.size()); }
  // In file order; stored_types() runs parallel to metadata().
  const std::vector<std::pair<std::string, MetaValue>>& metadata() const noexcept { return metadata_; }
  const std::vector<StoredType>& stored_types() const noexcept { return stored_types_; }
  const std::vector<TensorInfo>& tensors() const noexcept { return tensors_; }
  // Things that are odd but harmless (holes between tensors).
  const std::vector<std::string>& warnings() const noexcept { return warnings_; }

  // Throws Error(kIo) when a mapped file has been cut short since open(): reading its lost end would kill the
  // process (SIGBUS). Called after open() and after binding; what happens later is beyond any reader.
  void check_size() const;

  // Gives the memory of tensors back to the system, which reads the file again when they are touched: for
  // weights that were copied to a device.
  void release_pages() const noexcept;

  // The bytes of all shards in pieces of up to 64 MiB, for replace_piece(): see MappedFile::replace().
  size_t n_pieces() const noexcept;
  void replace_piece(size_t i) const;

  bool has(std::string_view key) const { return find(key) != nullptr; }
  const MetaValue* find(std::string_view key) const;
  const TensorInfo* find_tensor(std::string_view name) const;
  bool has_tensor_prefix(std::string_view prefix) const;

  // Required: a missing key, a wrong type or a value outside [min, max] is an Error naming file and key.
  int64_t get_int(std::string_view key, int64_t min, int64_t max) const;
  double get_float(std::string_view key, double min, double max) const;
  const std::string& get_string(std::string_view key) const;
  // Optional: the fallback serves a missing key only; a present but wrong value is still an Error.
  int64_t get_int(std::string_view key, int64_t min, int64_t max, int64_t fallback) const;
  double get_float(std::string_view key, double min, double max, double fallback) const;
  bool get_bool(std::string_view key, bool fallback) const;
  std::string get_string(std::string_view key, std::string_view fallback) const;
  // nullptr when absent; a wrong element type is an Error. Integer arrays serve as floats, too.
  const std::vector<int64_t>* find_ints(std::string_view key) const;
  std::optional<std::vector<double>> find_floats(std::string_view key) const;
  const std::vector<std::string>* find_strings(std::string_view key) const;
  // For keys that are a scalar or one value per layer (head_count_kv, feed_forward_length): always n values.
  // An array of bools counts as 0 and 1.
  std::vector<int64_t> get_per_layer(std::string_view key, int64_t n, int64_t min, int64_t max,
                                     std::optional<int64_t> fallback) const;

 private:
  struct Mapping;
  GgufFile() = default;
  Shard map_file(const std::string& path, const std::string& role);
  void adopt(Shard shard);
  void open_other_shards(const std::string& prefix, int64_t count);
  std::string path_;
  uint32_t version_ = 0;
  uint64_t file_bytes_ = 0;
  std::vector<std::unique_ptr<Mapping>> maps_;
  std::vector<std::pair<std::string, MetaValue>> metadata_;
  std::vector<StoredType> stored_types_;
  // Maps, not hash tables: the file chooses the names, it must not be able to choose collisions.
  std::map<std::string, size_t, std::less<>> key_index_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> tensor_index_;
  std::vector<std::string> warnings_;
};

// What a file holds, decided by content, never by name (spec 3.4).
enum class FileKind {
  kLanguageModel,
  kProjector,   // "mmproj": vision tower and projector
  kCombined,    // both parts, each under its own names
  kMonolithic,  // Ollama's dialect: vision keys under <arch>.vision; not readable yet
};
FileKind file_kind(const GgufFile& file);
// clip.projector_type or what older files say instead (spec 3.4, point 4); "" when nothing tells.
std::string projector_type(const GgufFile& file);
// Width of the rows that the projector hands to the language model, from its last matrix; 0 when unknown.
int64_t projector_width(const GgufFile& file);

// Where the language model and the vision tower of a model live.
struct ModelFiles {
  std::shared_ptr<const GgufFile> lm;
  std::shared_ptr<const GgufFile> vision;  // == lm for a combined file; null for a text-only model
  // Doubts that the user should hear of: files of the folder passed over and why, an unusual pair.
  std::vector<std::string> notes;
};
// `mmproj` empty: the vision part is `path` itself when it is combined, else the only projector file in
// its folder whose width fits (none: text only; several: an Error that lists them and asks for mmproj=).
ModelFiles find_model_files(const std::string& path, const std::string& mmproj);

}  // namespace trimtok
