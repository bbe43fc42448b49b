#include "service/memory_plan.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "model/phi3.h"

namespace tuppence {
namespace {

constexpr int64_t kReserveBytes = int64_t{256} << 20;
constexpr int32_t kBlockTokens = 16;
constexpr double kShareOfRest = 0.8;  // of what is left, for KV, when nobody said how much

KvLayout LayoutOf(const Config& config, DType type) {
  return KvLayout{.type = type,
                  .layers = config.layers,
                  .kv_heads = config.kv_heads,
                  .head_dim = config.head_dim,
                  .block_tokens = kBlockTokens};
}

// Everything but the KV pool.
MemoryPlan PlanRest(const MemoryQuestion& question) {
  MemoryPlan plan;
  WeightOptions options;
  options.format = question.weights;
  const WeightPlan weights = PlanWeights(question.config, options);
  plan.weights_bytes = weights.total_bytes();
  plan.staging_bytes = weights.staging_bytes;
  plan.scratch_bytes = Phi3::ScratchBytes(question.config, question.activations,
                                          question.batch_tokens_max, question.logit_rows_max);
  plan.reserve_bytes = kReserveBytes;
  plan.available_bytes = question.available_bytes;
  plan.kv_layout = LayoutOf(question.config, question.kv);
  return plan;
}

// One sequence of full length: less could not serve what the model promises.
int64_t BlocksOfContext(const Config& config) {
  return (config.positions_max + kBlockTokens - 1) / kBlockTokens;
}

// The least that is worth starting with: a long context may be served in part.
int64_t BlocksMin(const Config& config) { return std::min<int64_t>(BlocksOfContext(config), 256); }

// What the sequences need at once when they are as long as most requests are; at least two of full
// length. Taking all memory that is there would only make every start slower: each page is touched.
int64_t UsefulBlocks(const MemoryQuestion& question) {
  constexpr int64_t kUsualTokens = 512;
  const int64_t usual = question.sequences_max * kUsualTokens / kBlockTokens;
  return std::max(usual, 2 * BlocksOfContext(question.config));
}

bool Fits(const MemoryQuestion& question) {
  const MemoryPlan plan = PlanRest(question);
  return plan.total_bytes() + BlocksMin(question.config) * plan.kv_layout.bytes_per_block() <=
         question.available_bytes;
}

// "--weights int4 --kv bf16, ...": the combinations that fit, largest first.
std::string WhatWouldFit(const MemoryQuestion& asked) {
  std::vector<std::string> found;
  const DType half = asked.activations.matmul_input;  // f32: the CPU, which keeps all but f16
  const bool gpu = half != DType::kF32;
  for (const char* weights : {"f32", half == DType::kF16 ? "f16" : "bf16", "int8", "int4"}) {
    for (const DType kv : {DType::kF32, gpu ? half : DType::kBf16, DType::kI8}) {
      if (gpu && (kv == DType::kF32 || weights == std::string_view("f32"))) continue;
      MemoryQuestion question = asked;
      question.weights = *ParseWeightFormat(weights);
      question.kv = kv;
      question.kv_memory_bytes = 0;
      if (Fits(question)) {
        found.push_back(absl::StrCat("--weights ", weights, " --kv ", NameOfKv(kv)));
      }
    }
  }
  if (found.empty()) {
    return "no --weights and --kv of this model fit; take a smaller model or a larger machine";
  }
  return absl::StrCat("these would fit: ", absl::StrJoin(found, ", "));
}

absl::Status DoesNotFit(const MemoryQuestion& question, const MemoryPlan& plan, int64_t kv_bytes) {
  return absl::ResourceExhaustedError(absl::StrCat(
      "not enough memory: weights take ", FormatBytes(plan.weights_bytes), ", a step ",
      FormatBytes(plan.scratch_bytes), ", keys and values at least ", FormatBytes(kv_bytes),
      ", the rest of the process ", FormatBytes(plan.reserve_bytes), ", together ",
      FormatBytes(plan.total_bytes() + kv_bytes), "; ", FormatBytes(question.available_bytes),
      " are available; ", WhatWouldFit(question)));
}

}  // namespace

absl::StatusOr<MemoryPlan> PlanMemory(const MemoryQuestion& question) {
  MemoryPlan plan = PlanRest(question);
  const int64_t block_bytes = plan.kv_layout.bytes_per_block();
  const int64_t least = BlocksMin(question.config);
  const int64_t left = question.available_bytes - plan.total_bytes();
  int64_t blocks = 0;
  if (question.kv_memory_bytes > 0) {
    blocks = static_cast<int64_t>(question.kv_memory_bytes) / block_bytes;
    if (blocks < 1) {
      return absl::InvalidArgumentError(absl::StrCat("--kv-memory is ", question.kv_memory_bytes,
                                                     " bytes; one block of ", kBlockTokens,
                                                     " tokens takes ", block_bytes, "; give more"));
    }
    if (blocks * block_bytes > left) {
      return DoesNotFit(question, plan, blocks * block_bytes);
    }
  } else {
    if (least * block_bytes > left) return DoesNotFit(question, plan, least * block_bytes);
    const int64_t useful = UsefulBlocks(question);
    const int64_t affordable = static_cast<int64_t>(kShareOfRest * left) / block_bytes;
    blocks = std::min(useful, std::max(affordable, least));
  }
  plan.kv_blocks =
      static_cast<int32_t>(std::min<int64_t>(blocks, std::numeric_limits<int32_t>::max() / 64));
  plan.kv_bytes = plan.kv_blocks * block_bytes;
  return plan;
}

std::string MemoryPlan::Describe() const {
  std::string text;
  const auto line = [&text](const char* name, int64_t bytes, const std::string& note) {
    absl::StrAppendFormat(&text, "  %-18s %10s  %s\n", name, FormatBytes(bytes), note);
  };
  line("weights", weights_bytes,
       absl::StrCat("and ", FormatBytes(staging_bytes), " more while loading"));
  line("one step", scratch_bytes, "activations and logits");
  line("keys and values", kv_bytes,
       absl::StrCat(kv_blocks, " blocks of ", kv_layout.block_tokens, " tokens, ",
                    NameOfKv(kv_layout.type), ", ", kv_layout.bytes_per_token(), " bytes a token"));
  line("all else", reserve_bytes, "connections, queues, the program");
  line("together", total_bytes(), absl::StrCat("of ", FormatBytes(available_bytes), " available"));
  return text;
}

std::string FormatBytes(int64_t bytes) {
  constexpr double kMiB = 1 << 20;
  const double mib = static_cast<double>(bytes) / kMiB;
  return mib < 1024 ? absl::StrFormat("%.1f MiB", mib) : absl::StrFormat("%.1f GiB", mib / 1024);
}

const char* NameOfKv(DType type) {
  switch (type) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kI8:
      return "int8";
    default:
      return "bf16";
  }
}

}  // namespace tuppence
