// See strict_json.h. nlohmann's parser keeps its own stack on the heap, so that depth costs no call
// stack.
#include "model/strict_json.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tuppence {
namespace {

using nlohmann::json;

// Builds the document as the parser reads on. Not the parser's own callback: after each object that
// looks through all that the enclosing list holds so far, and 100,000 objects in a list took 10 s.
class StrictReader final : public nlohmann::json_sax<json> {
 public:
  StrictReader(int depth_max, int64_t keys_max) : depth_max_(depth_max), keys_max_(keys_max) {}

  bool null() override { return Put(nullptr); }
  bool boolean(bool value) override { return Put(value); }
  bool number_integer(int64_t value) override { return Put(value); }
  bool number_unsigned(uint64_t value) override { return Put(value); }
  bool number_float(double value, const std::string&) override { return Put(value); }
  bool string(std::string& value) override { return Put(std::move(value)); }
  bool binary(json::binary_t&) override { return Refuse("JSON holds no binary values"); }
  bool start_object(size_t) override { return Open(json::object()); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(std::string& name) override {
    if (++keys_seen_ > keys_max_) {
      return Refuse(absl::StrCat("JSON has more than ", keys_max_, " keys"));
    }
    if (open_.back()->contains(name)) {
      return Refuse(absl::StrCat("JSON key ", ShowJson(name), " stands twice in one object"));
    }
    key_ = std::move(name);
    return true;
  }
  bool parse_error(size_t, const std::string&, const json::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line ...": the tag is of no use to a reader.
    const std::string what = error.what();
    const size_t tag = what.find("] ");
    return Refuse(
        absl::StrCat("not valid JSON: ", tag == std::string::npos ? what : what.substr(tag + 2)));
  }

  const std::string& fault() const { return fault_; }
  json TakeDocument() { return std::move(document_); }

 private:
  bool Refuse(const std::string& why) {
    fault_ = why;
    return false;
  }
  json* Place(json value) {
    if (open_.empty()) {
      document_ = std::move(value);
      return &document_;
    }
    json* const into = open_.back();
    json& place = into->is_array() ? into->emplace_back() : (*into)[key_];
    place = std::move(value);
    return &place;
  }
  bool Put(json value) {
    Place(std::move(value));
    return true;
  }
  bool Open(json value) {
    if (static_cast<int>(open_.size()) >= depth_max_) {
      return Refuse(absl::StrCat("JSON is nested deeper than ", depth_max_, " levels"));
    }
    open_.push_back(Place(std::move(value)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  const int depth_max_;
  const int64_t keys_max_;
  int64_t keys_seen_ = 0;
  json document_;
  std::vector<json*> open_;  // each the last value of the one before: none moves while it is open
  std::string key_;
  std::string fault_;
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(std::string_view text, int depth_max, int64_t keys_max) {
  StrictReader reader(depth_max, keys_max);
  if (json::sax_parse(text.begin(), text.end(), &reader)) return reader.TakeDocument();
  return absl::InvalidArgumentError(reader.fault());
}

absl::Status CheckKeys(const json& object, const std::string& where,
                       std::initializer_list<const char*> allowed) {
  if (!object.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": must be an object {...}"));
  }
  for (const auto& [key, value] : object.items()) {
    if (std::find(allowed.begin(), allowed.end(), key) != allowed.end()) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": \"", key, "\" is not known here; there may be ", absl::StrJoin(allowed, ", ")));
  }
  return absl::OkStatus();
}

std::string ShowJson(const json& value, size_t chars_max) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  if (text.size() > chars_max) text = absl::StrCat(text.substr(0, chars_max), "...");
  return text;
}

}  // namespace tuppence
