#include "engine/language/decoder.h"

#include "engine/gguf/quote.h"

namespace trimtok {

#define TT_DECODER(arch, factory, models) \
  std::unique_ptr<Decoder> factory(std::shared_ptr<const GgufFile> file, const Placement& place);
#include "engine/language/decoders.def"
#undef TT_DECODER

namespace {

struct Entry {
  const char* arch;
  std::unique_ptr<Decoder> (*load)(std::shared_ptr<const GgufFile>, const Placement&);
  const char* models;
};
constexpr Entry kDecoders[] = {
#define TT_DECODER(arch, factory, models) {arch, factory, models},
#include "engine/language/decoders.def"
#undef TT_DECODER
};

}  // namespace

std::unique_ptr<Decoder> load_decoder(std::shared_ptr<const GgufFile> file, const Placement& place) {
  const std::string arch = file->get_string("general.architecture");
  std::string known;
  for (const Entry& entry : kDecoders) {
    if (arch == entry.arch) return entry.load(std::move(file), place);
    known += (known.empty() ? "" : ", ") + std::string(entry.arch);
  }
  fail(ErrorCode::kUnsupported, "[language model] %s: key general.architecture is %s, supported are %s",
       quote_path(file->path()).c_str(), quote_text(arch).c_str(), known.c_str());
}

std::vector<std::pair<std::string, std::string>> supported_decoders() {
  std::vector<std::pair<std::string, std::string>> found;
  for (const Entry& entry : kDecoders) found.emplace_back(entry.arch, entry.models);
  return found;
}

}  // namespace trimtok
