#include "service/http_fault.h"

#include <boost/beast/http/error.hpp>

#include "absl/strings/str_cat.h"

namespace tuppence {

namespace http = boost::beast::http;

HttpFault HttpFaultOf(boost::system::error_code error, bool timed_out, const HttpLimits& limits,
                      int64_t bytes_max, int64_t chunks_max) {
  if (timed_out) return {408, "the request did not come in time; send it without pauses"};
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return {431, absl::StrCat("the header has more than ", limits.header_bytes_max,
                              " bytes; send fewer or shorter header fields")};
  }
  if (error == http::error::body_limit) {
    return {413, absl::StrCat("the body has more than ", bytes_max, " bytes or ", chunks_max,
                              " chunks; shorten it")};
  }
  const bool is_http = error.category() == make_error_code(http::error::bad_method).category();
  if (!is_http || error == http::error::end_of_stream || error == http::error::partial_message) {
    return {};
  }
  return {400, absl::StrCat("this is not a request of HTTP/1.1: ", error.message())};
}

}  // namespace tuppence
