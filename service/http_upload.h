// http_upload: POST /v1/files: a form with a file, written to the disk as it comes, so that its
// size bounds no memory; then checked as `tuppence batch` checks its input. Called by http_routes.
#pragma once

#include "service/http_exchange.h"
#include "service/http_routes.h"

namespace tuppence {

constexpr int kUploadsMax = 8;  // at once; each may be large and slow

boost::asio::awaitable<void> UploadFile(const HttpRoutes& routes, HttpExchange& exchange);

}  // namespace tuppence
