// http_fault: what a connection says to bytes that are no request, or stop being one. Used by
// http_connection. Pure.
#pragma once

#include <boost/system/error_code.hpp>
#include <cstdint>
#include <string>

#include "service/http_connection.h"

namespace tuppence {

struct HttpFault {
  int status = 0;  // 0: nothing is said, for nobody is there
  std::string message = {};
};

// `error` is of reading; `bytes_max` and `chunks_max` are what the body was held to.
HttpFault HttpFaultOf(boost::system::error_code error, bool timed_out, const HttpLimits& limits,
                      int64_t bytes_max, int64_t chunks_max);

}  // namespace tuppence
