#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/error.h"
#include "engine/gguf/file.h"
#include "engine/text/pretokenizer.h"
#include "engine/text/sampler.h"
#include "engine/text/tokenizer.h"
#include "engine/text/unicode.h"
#include "python/bindings/module.h"

namespace py = pybind11;
using namespace py::literals;

namespace trimtok::python {
namespace {

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path, std::optional<int64_t> n_rows) {
  const py::gil_scoped_release release;
  const auto file = GgufFile::open(path);
  const VocabData vocab = read_vocab(*file);
  if (!n_rows) {
    const TensorInfo* table = file->find_tensor("token_embd.weight");
    n_rows = table != nullptr ? table->ne[1] : static_cast<int64_t>(vocab.tokens.size());
  }
  return make_tokenizer(vocab, *n_rows);
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text, bool parse_special,
                            bool add_bos) {
  if (add_bos && tokenizer.bos() < 0) {
    fail(ErrorCode::kInvalidArgument,
         "[tokenizer] add_bos is set but the vocabulary has no BOS token; leave it out");
  }
  const py::gil_scoped_release release;
  std::vector<int32_t> ids = tokenizer.encode(text, parse_special);
  if (add_bos) ids.insert(ids.begin(), tokenizer.bos());
  return ids;
}

std::vector<std::string> pre_tokenize(const std::string& name, std::string_view text) {
  const PreTokenizer* pre = find_pre_tokenizer(name);
  if (pre == nullptr) {
    fail(ErrorCode::kInvalidArgument,
         "[tokenizer] \"%.64s\" is no known pre-tokenizer; see tokenizer.ggml.pre", name.c_str());
  }
  const std::string valid = to_valid_utf8(text);
  const auto pieces = split_pieces(*pre, valid);
  return {pieces.begin(), pieces.end()};
}

int32_t sample(Sampler& sampler, const py::array& logits) {
  if (logits.ndim() != 1 || !logits.dtype().is(py::dtype::of<float>())) {
    fail(ErrorCode::kInvalidArgument, "[sampler] logits are %s of %d dimensions, must be float32 [n_vocab]",
         py::cast<std::string>(py::str(logits.dtype())).c_str(), static_cast<int>(logits.ndim()));
  }
  const py::array_t<float, py::array::c_style | py::array::forcecast> row(logits);
  return sampler.sample({row.data(), static_cast<size_t>(row.size())});
}

void bind_tokenizer(py::module_& m) {
  py::class_<Tokenizer>(m, "Tokenizer", "The tokenizer that a GGUF file describes. Immutable; safe to share.")
      .def(py::init(&open_tokenizer), "path"_a, "n_rows"_a = py::none(),
           "n_rows: rows of the embedding table (default: those of token_embd.weight, else one per token).\n"
           "Raises OSError, ModelFormatError or UnsupportedError.")
      .def("encode", &encode, "text"_a, "parse_special"_a = true, "add_bos"_a = false,
           "Ids of str or bytes; invalid UTF-8 becomes U+FFFD. U+FDD0 breaks up special tokens and vanishes.")
      .def(
          "decode",
          [](const Tokenizer& t, const std::vector<int32_t>& ids, bool print_special) {
            return to_valid_utf8(t.decode(ids, print_special));
          },
          "ids"_a, "print_special"_a = false, "Text of ids; invalid UTF-8 becomes U+FFFD.")
      .def(
          "piece",
          [](const Tokenizer& t, int32_t id, bool print_special) {
            return py::bytes(t.piece(id, print_special));
          },
          "id"_a, "print_special"_a = false, "Bytes of one token; may be part of a character.")
      .def(
          "text", [](const Tokenizer& t, int32_t id) { return py::bytes(t.text(id)); }, "id"_a,
          "The token as the file stores it.")
      .def("find", &Tokenizer::find, "text"_a, "Id of a token as the file stores it, -1 when there is none.")
      .def("is_eog", &Tokenizer::is_eog, "id"_a, "Whether the token ends a generation.")
      .def_property_readonly("n_tokens", &Tokenizer::n_tokens)
      .def_property_readonly("bos", &Tokenizer::bos, "Id, -1 when there is none.")
      .def_property_readonly("eos", &Tokenizer::eos, "Id, -1 when there is none.")
      .def_property_readonly("add_bos", &Tokenizer::add_bos, "Whether prompts start with BOS.")
      .def_property_readonly("add_eos", &Tokenizer::add_eos)
      .def_property_readonly("suppressed", &Tokenizer::suppressed, "Ids that are never sampled, ascending.")
      .def_property_readonly("warnings", &Tokenizer::warnings)
      .def_property_readonly("model", &Tokenizer::model, "\"llama\" or \"gpt2\".")
      .def_property_readonly("pre", &Tokenizer::pre,
                             "Name of the pre-tokenizer, \"\" when the file has none.");
}

}  // namespace

void bind_text(py::module_& m) {
  bind_tokenizer(m);
  m.def("pre_tokenize", &pre_tokenize, "name"_a, "text"_a,
        "The pieces inside which the named byte-level BPE merges, in order. Raises ValueError.");

  py::class_<StreamDecoder>(m, "StreamDecoder",
                            "Turns ids into text one by one, never splitting a character.")
      .def(py::init<const Tokenizer&>(), "tokenizer"_a, py::keep_alive<1, 2>())
      .def("push", &StreamDecoder::push, "id"_a, "The characters that became complete.")
      .def("finish", &StreamDecoder::finish, "What is left; a broken character becomes U+FFFD.");

  py::class_<Sampler>(m, "Sampler", "Chooses tokens from logits; the same seed gives the same choices.")
      .def(py::init([](float temperature, int32_t top_k, float top_p, float min_p, float repeat_penalty,
                       uint64_t seed, std::vector<int32_t> suppressed) {
             return Sampler({temperature, top_k, top_p, min_p, repeat_penalty, seed}, std::move(suppressed));
           }),
           py::kw_only(), "temperature"_a = SamplingOptions().temperature,
           "top_k"_a = SamplingOptions().top_k, "top_p"_a = SamplingOptions().top_p,
           "min_p"_a = SamplingOptions().min_p, "repeat_penalty"_a = SamplingOptions().repeat_penalty,
           "seed"_a = SamplingOptions().seed, "suppressed"_a = std::vector<int32_t>(),
           "Raises ValueError naming the allowed range.")
      .def("accept", &Sampler::accept, "id"_a, "Counts a token as seen, for repeat_penalty.")
      .def("sample", &sample, "logits"_a,
           "Id chosen from float32 [n_vocab]. Raises NumericsError for NaN, +inf or nothing to choose from.");
}

}  // namespace trimtok::python
