// http_answer: one completion over HTTP, from its body to its last byte: reads what is asked, gives
// it to a Generation, and writes what comes, whole or as server-sent events, one write in flight.
// The HTTP counterpart of generate_call. Called by http_routes.
#pragma once

#include "service/http_exchange.h"
#include "service/openai_request.h"
#include "service/service_parts.h"

namespace tuppence {

// `kind` is kChat or kCompletion. `parts` and `exchange` outlive it.
boost::asio::awaitable<void> AnswerCompletion(const ServiceParts& parts, HttpExchange& exchange,
                                              OpenAiKind kind);

}  // namespace tuppence
