#include "service/http_handlers.h"

namespace tuppence {
namespace {

std::string_view TargetOf(const HttpHeader& header) {
  return {header.target().data(), header.target().size()};
}

}  // namespace

std::string_view PathOf(const HttpHeader& header) {
  const std::string_view target = TargetOf(header);
  return target.substr(0, target.find('?'));
}

std::string_view QueryOf(const HttpHeader& header) {
  const std::string_view target = TargetOf(header);
  const size_t mark = target.find('?');
  return mark == std::string_view::npos ? std::string_view() : target.substr(mark + 1);
}

// It is the third of the path's parts: /v1/files/NAME, /v1/files/NAME/content.
std::string NameIn(const HttpHeader& header) {
  const std::string_view path = PathOf(header);
  const size_t begin = path.find('/', path.find('/', 1) + 1) + 1;
  return std::string(path.substr(begin, path.find('/', begin) - begin));
}

std::string DumpJson(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

absl::Status ReadCaller(const ServiceParts& parts, const HttpHeader& header,
                        CallIdentity* identity) {
  if (absl::Status known = ReadIdentity(header, parts, identity); !known.ok()) return known;
  return ReadDeadline(header, parts.limits, *parts.clock).status();
}

}  // namespace tuppence
