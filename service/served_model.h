// ServedModel: what the service knows of the one model it serves: its limits, its tokenizer and
// what GetModel tells. Filled by model_loader at start, read only after; every thread may share it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/chat_template.h"
#include "model/tokenizer.h"

namespace tuppence {

struct ServedModel {
  std::string name;
  std::vector<std::string> aliases;  // names that callers may use as well
  int32_t context_tokens = 0;
  int32_t vocab = 0;

  std::shared_ptr<const Tokenizer> tokenizer;  // null: token ids in and out only
  std::string tokenizer_missing_why;           // one clause, where it is null
  std::optional<ChatTemplate> chat_template;   // none: text and token ids only
  std::string template_missing_why;            // one clause, where there is none
  std::vector<int32_t> stop_ids;               // the model's own and the template's end
  std::vector<uint64_t> mapped_ids;  // one bit for each id that may occur; [ceil(vocab / 64)]

  int64_t loaded_unix_seconds = 0;

  // For GetModel.
  int64_t parameters = 0;
  std::string weight_type;
  std::string kv_type;
  std::string backend;
  std::string arithmetic_id;
  bool repeatable = true;  // the same request has the same answer, whatever shares its batch
  std::string kernels;
  std::string rope_policy;  // "" without LongRoPE
  int64_t weight_bytes = 0;
  int64_t kv_bytes = 0;
  int32_t kv_blocks = 0;
  int32_t kv_block_tokens = 0;
  int32_t sequences_max = 0;
  int32_t step_tokens_max = 0;

  bool IsMapped(int32_t id) const {
    return id >= 0 && id < vocab && ((mapped_ids[id / 64] >> (id % 64)) & 1) != 0;
  }
};

}  // namespace tuppence
