// See strict_json.h. nlohmann's parser keeps its own stack on the heap, so that depth costs no call
// stack; its callback sees every key before the value is stored, which is where duplicates show.
#include "model/strict_json.h"

#include <algorithm>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tuppence {
namespace {

using nlohmann::json;

// Leaves the parser; caught below, never outside this file.
struct Refused {
  std::string reason;
};

class KeyWatch {
 public:
  KeyWatch(int depth_max, int64_t keys_max) : depth_max_(depth_max), keys_max_(keys_max) {}

  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        if (depth + 1 > depth_max_) {
          throw Refused{absl::StrCat("JSON is nested deeper than ", depth_max_, " levels")};
        }
        if (event == json::parse_event_t::object_start) keys_.emplace_back();
        break;
      case json::parse_event_t::object_end:
        keys_.pop_back();
        break;
      case json::parse_event_t::key:
        if (++keys_seen_ > keys_max_) {
          throw Refused{absl::StrCat("JSON has more than ", keys_max_, " keys")};
        }
        if (!keys_.back().insert(parsed.get<std::string>()).second) {
          throw Refused{absl::StrCat("JSON key ", ShowJson(parsed), " stands twice in one object")};
        }
        break;
      default:
        break;
    }
    return true;
  }

 private:
  const int depth_max_;
  const int64_t keys_max_;
  int64_t keys_seen_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(std::string_view text, int depth_max, int64_t keys_max) {
  KeyWatch watch(depth_max, keys_max);
  const json::parser_callback_t callback = [&watch](int depth, json::parse_event_t event,
                                                    json& parsed) {
    return watch(depth, event, parsed);
  };
  try {
    return json::parse(text.begin(), text.end(), callback);
  } catch (const Refused& refused) {
    return absl::InvalidArgumentError(refused.reason);
  } catch (const json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line ...": the tag is of no use to a reader.
    const std::string what = error.what();
    const size_t tag = what.find("] ");
    return absl::InvalidArgumentError(
        absl::StrCat("not valid JSON: ", tag == std::string::npos ? what : what.substr(tag + 2)));
  }
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
