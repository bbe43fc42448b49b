// See added_tokens.h.
#include "model/added_tokens.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "model/file.h"
#include "model/strict_json.h"
#include "nlohmann/json.hpp"

namespace tuppence {
namespace {

using nlohmann::json;

// The published tokenizer.json has 1.9 MB, Phi-4-mini's 15; the limit keeps wrong files out.
constexpr int64_t kFileBytesMax = int64_t{64} << 20;
constexpr const char* kSpaceMark = "\xE2\x96\x81";

absl::Status Wrong(const std::string& file, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", what));
}

// Fails with NOT_FOUND if the file does not exist.
absl::StatusOr<json> ReadJson(const std::string& folder, const std::string& file) {
  const absl::StatusOr<std::string> text =
      ReadSmallFile(absl::StrCat(folder, "/", file), kFileBytesMax);
  if (!text.ok()) return text.status();
  absl::StatusOr<json> parsed = ParseStrictJson(*text);
  if (!parsed.ok()) return Wrong(file, std::string(parsed.status().message()));
  if (!parsed->is_object()) return Wrong(file, "expected a JSON object");
  return parsed;
}

const json* Find(const json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

bool Flag(const json& object, const char* name, bool otherwise) {
  const json* value = Find(object, name);
  return value != nullptr && value->is_boolean() ? value->get<bool>() : otherwise;
}

std::string Text(const json& object, const char* name) {
  const json* value = Find(object, name);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

// A special token stands in JSON as its text or as an object with its text under "content".
std::string TokenText(const json& object, const char* name) {
  const json* value = Find(object, name);
  if (value == nullptr) return "";
  return value->is_string() ? value->get<std::string>() : Text(*value, "content");
}

class Collector {
 public:
  absl::StatusOr<AddedTokens> Collect(const std::string& folder);

 private:
  absl::Status Add(int64_t id, AddedToken token, bool flags_count);
  absl::Status ReadTokenizerJson(const json& root);
  absl::Status ReadModel(const json& model);
  absl::Status CheckMerges(const json& model, const json& vocabulary);
  absl::Status ReadTokenizerConfig(const json& root);
  absl::Status ReadTemplate(const json& root);

  AddedTokens out_;
  std::map<std::string, int32_t> ids_;
};

absl::Status Collector::Add(int64_t id, AddedToken token, bool flags_count) {
  if (token.content.empty()) {
    return Wrong(token.file, absl::StrCat("the added token ", id, " has no content"));
  }
  if (id < 0 || id > INT32_MAX) {
    return Wrong(token.file, absl::StrCat("the added token ", token.content, " has the id ", id,
                                          ", which is out of range"));
  }
  constexpr const char* kWayOut = "; take all files from one revision of the checkpoint";
  const auto [by_content, content_is_new] = ids_.emplace(token.content, id);
  if (by_content->second != id) {
    return Wrong(token.file, absl::StrCat("gives ", token.content, " the id ", id, ", ",
                                          out_.tokens[by_content->second].file, " the id ",
                                          by_content->second, kWayOut));
  }
  const auto [by_id, id_is_new] = out_.tokens.emplace(static_cast<int32_t>(id), token);
  if (by_id->second.content != token.content) {
    return Wrong(token.file,
                 absl::StrCat("gives the id ", id, " to ", token.content, ", ", by_id->second.file,
                              " to ", by_id->second.content, kWayOut));
  }
  if (!id_is_new && flags_count) by_id->second = std::move(token);
  return absl::OkStatus();
}

AddedToken ReadToken(const json& from, const std::string& file) {
  AddedToken token;
  token.content = Text(from, "content");
  token.special = Flag(from, "special", true);
  token.lstrip = Flag(from, "lstrip", false);
  token.rstrip = Flag(from, "rstrip", false);
  token.file = file;
  return token;
}

// {"type": "Prepend"}, {"type": "Replace"}, or a sequence of them, as converted Llama tokenizers
// have; absent where a Metaspace pre-tokenizer does the same work.
absl::Status ReadNormalizer(const json& normalizer, SpacePrefix* prefix) {
  const std::string type = Text(normalizer, "type");
  if (type == "Prepend" && Text(normalizer, "prepend") == kSpaceMark) {
    prefix->segments = SpacePrefix::Segments::kEach;
    return absl::OkStatus();
  }
  if (type == "Replace" && Text(normalizer, "content") == kSpaceMark) {
    const json* pattern = Find(normalizer, "pattern");
    if (pattern != nullptr && Text(*pattern, "String") == " ") return absl::OkStatus();
  }
  const json* parts = Find(normalizer, "normalizers");
  if (type != "Sequence" || parts == nullptr || !parts->is_array()) {
    return absl::UnimplementedError(absl::StrCat(
        "tokenizer.json normalises text by ", ShowJson(normalizer),
        "; supported are a space put before the text and spaces replaced by \"", kSpaceMark, "\""));
  }
  for (const json& part : *parts) {
    const absl::Status read = ReadNormalizer(part, prefix);
    if (!read.ok()) return read;
  }
  return absl::OkStatus();
}

absl::Status ReadPreTokenizer(const json& pre_tokenizer, SpacePrefix* prefix) {
  const std::string scheme = Find(pre_tokenizer, "prepend_scheme") != nullptr
                                 ? Text(pre_tokenizer, "prepend_scheme")
                             : Flag(pre_tokenizer, "add_prefix_space", true) ? "always"
                                                                             : "never";
  prefix->unless_space = true;
  if (scheme == "always") prefix->segments = SpacePrefix::Segments::kEach;
  if (scheme == "first") prefix->segments = SpacePrefix::Segments::kFirst;
  if (scheme == "never") prefix->segments = SpacePrefix::Segments::kNone;
  if (Text(pre_tokenizer, "type") == "Metaspace" &&
      Text(pre_tokenizer, "replacement") == kSpaceMark && !Flag(pre_tokenizer, "split", true) &&
      (scheme == "always" || scheme == "first" || scheme == "never")) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.json splits text by ", ShowJson(pre_tokenizer),
                   "; supported are none and Metaspace without split, as Phi-3's have"));
}

absl::Status Collector::ReadModel(const json& model) {
  const std::string type = Text(model, "type");
  if (type != "BPE" || !Flag(model, "byte_fallback", false)) {
    return absl::UnimplementedError(
        absl::StrCat("tokenizer.json has a model of the type ", type.empty() ? "(none)" : type,
                     type == "BPE" ? " without byte fallback" : "",
                     "; supported is SentencePiece BPE with byte fallback, as Phi-3 has"));
  }
  const json* vocabulary = Find(model, "vocab");
  if (vocabulary == nullptr || !vocabulary->is_object()) {
    return Wrong("tokenizer.json", "model.vocab is missing");
  }
  for (const auto& [piece, id] : vocabulary->items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      return Wrong("tokenizer.json", absl::StrCat("model.vocab gives a piece the id ", ShowJson(id),
                                                  "; expected a whole number from 0"));
    }
    out_.vocabulary.emplace_back(piece, id.get<int32_t>());
  }
  return CheckMerges(model, *vocabulary);
}

// Pieces are merged by tokenizer.model's scores; the list of merges says the same in another way,
// and has to be about the same pieces.
absl::Status Collector::CheckMerges(const json& model, const json& vocabulary) {
  const json* merges = Find(model, "merges");
  if (merges == nullptr) return absl::OkStatus();
  if (!merges->is_array()) return Wrong("tokenizer.json", "model.merges is no list");
  for (const json& merge : *merges) {
    std::string left, right;
    if (merge.is_string()) {  // "left right"; a space within a piece is written otherwise
      const std::string both = merge.get<std::string>();
      const size_t space = both.find(' ');
      left = both.substr(0, space);
      if (space != both.npos) right = both.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    }
    if (vocabulary.contains(left) && vocabulary.contains(right) &&
        vocabulary.contains(left + right)) {
      continue;
    }
    return Wrong("tokenizer.json",
                 absl::StrCat("model.merges holds ", ShowJson(merge),
                              ", of which model.vocab has not both parts and the whole; take all "
                              "files from one revision of the checkpoint"));
  }
  return absl::OkStatus();
}

absl::Status Collector::ReadTokenizerJson(const json& root) {
  const json* model = Find(root, "model");
  if (model == nullptr) return Wrong("tokenizer.json", "model is missing");
  absl::Status read = ReadModel(*model);
  if (!read.ok()) return read;
  SpacePrefix prefix{SpacePrefix::Segments::kNone, false};
  if (const json* normalizer = Find(root, "normalizer")) {
    read = ReadNormalizer(*normalizer, &prefix);
    if (!read.ok()) return read;
  }
  if (const json* pre_tokenizer = Find(root, "pre_tokenizer")) {
    read = ReadPreTokenizer(*pre_tokenizer, &prefix);
    if (!read.ok()) return read;
  }
  out_.space_prefix = prefix;
  const json* tokens = Find(root, "added_tokens");
  if (tokens == nullptr) return absl::OkStatus();
  if (!tokens->is_array()) return Wrong("tokenizer.json", "added_tokens is not a list");
  for (const json& from : *tokens) {
    const json* id = Find(from, "id");
    if (id == nullptr || !id->is_number_integer()) {
      return Wrong("tokenizer.json", absl::StrCat("an added token has no id: ", ShowJson(from)));
    }
    read = Add(id->get<int64_t>(), ReadToken(from, "tokenizer.json"), /*flags_count=*/true);
    if (!read.ok()) return read;
  }
  return absl::OkStatus();
}

// The template is a text, or a list of named ones of which "default" is for chats.
absl::Status Collector::ReadTemplate(const json& root) {
  const json* source = Find(root, "chat_template");
  if (source == nullptr) return absl::OkStatus();
  if (source->is_string()) {
    out_.chat_template_source = source->get<std::string>();
    return absl::OkStatus();
  }
  if (source->is_array()) {
    for (const json& named : *source) {
      if (Text(named, "name") == "default") out_.chat_template_source = Text(named, "template");
    }
    return absl::OkStatus();
  }
  return Wrong("tokenizer_config.json", "chat_template is neither a text nor a list");
}

absl::Status Collector::ReadTokenizerConfig(const json& root) {
  constexpr const char* kFile = "tokenizer_config.json";
  out_.bos_token = TokenText(root, "bos_token");
  out_.eos_token = TokenText(root, "eos_token");
  if (const json* adds_bos = Find(root, "add_bos_token")) {
    if (!adds_bos->is_boolean()) return Wrong(kFile, "add_bos_token is neither true nor false");
    out_.adds_bos = adds_bos->get<bool>();
  }
  const absl::Status read = ReadTemplate(root);
  if (!read.ok()) return read;
  const json* tokens = Find(root, "added_tokens_decoder");
  if (tokens == nullptr) return absl::OkStatus();
  if (!tokens->is_object()) return Wrong(kFile, "added_tokens_decoder is not an object");
  for (const auto& [key, from] : tokens->items()) {
    int64_t id = 0;
    if (!absl::SimpleAtoi(key, &id)) {
      return Wrong(kFile, absl::StrCat("added_tokens_decoder has the key ", ShowJson(key),
                                       "; expected a token id"));
    }
    const absl::Status added = Add(id, ReadToken(from, kFile), /*flags_count=*/true);
    if (!added.ok()) return added;
  }
  return absl::OkStatus();
}

absl::StatusOr<AddedTokens> Collector::Collect(const std::string& folder) {
  // In this order, for a later file's flags count.
  const absl::StatusOr<json> tokenizer = ReadJson(folder, "tokenizer.json");
  if (!tokenizer.ok() && !absl::IsNotFound(tokenizer.status())) return tokenizer.status();
  if (tokenizer.ok()) {
    const absl::Status read = ReadTokenizerJson(*tokenizer);
    if (!read.ok()) return read;
  }
  const absl::StatusOr<json> config = ReadJson(folder, "tokenizer_config.json");
  if (!config.ok() && !absl::IsNotFound(config.status())) return config.status();
  if (config.ok()) {
    const absl::Status read = ReadTokenizerConfig(*config);
    if (!read.ok()) return read;
  }
  const absl::StatusOr<json> added = ReadJson(folder, "added_tokens.json");
  if (!added.ok() && !absl::IsNotFound(added.status())) return added.status();
  if (added.ok()) {
    for (const auto& [content, id] : added->items()) {
      AddedToken token;
      token.content = content;
      token.file = "added_tokens.json";
      if (!id.is_number_integer()) return Wrong(token.file, content + " has no whole number");
      const absl::Status add = Add(id.get<int64_t>(), std::move(token), /*flags_count=*/false);
      if (!add.ok()) return add;
    }
  }
  // Newer checkpoints keep the template in a file of its own, which then counts.
  absl::StatusOr<std::string> jinja =
      ReadSmallFile(absl::StrCat(folder, "/chat_template.jinja"), kFileBytesMax);
  if (!jinja.ok() && !absl::IsNotFound(jinja.status())) return jinja.status();
  if (jinja.ok()) out_.chat_template_source = *std::move(jinja);
  return std::move(out_);
}

}  // namespace

absl::StatusOr<AddedTokens> ReadAddedTokens(const std::string& folder) {
  return Collector().Collect(folder);
}

}  // namespace tuppence
