// A row of numbers that are none, on the kernels: NaN in the embedding of one token, put there in
// the emulated GPU's memory after loading (which would refuse it). The request whose prompt has the
// token ends by itself, pays nothing and leaves nothing behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "cuda/packed_matrix.h"
#include "tests/golden/machine.h"

namespace tuppence {
namespace {

constexpr int32_t kPoison = 77;

void PoisonEmbedding(const Machine& machine) {
  const auto& table = static_cast<const cuda_emulated::PackedMatrix&>(*machine.weights().embedding);
  constexpr int kRowBytes = cuda_emulated::kLoadBytes / cuda_emulated::kPanelOutputs;
  auto* const panels = const_cast<std::byte*>(table.data());
  for (int load = 0; load < table.loads(); ++load) {
    const int64_t at = (int64_t{kPoison / cuda_emulated::kPanelOutputs} * table.loads() + load) *
                           cuda_emulated::kLoadBytes +
                       kPoison % cuda_emulated::kPanelOutputs * kRowBytes;
    std::fill_n(panels + at, kRowBytes, std::byte{0xff});  // a NaN in every 16-bit type
  }
}

Request Ask(const std::string& id, int32_t prompt_tokens, const Config& config) {
  Request request;
  request.id = id;
  request.tenant = "unknown";
  for (int32_t t = 0; t < prompt_tokens; ++t) {
    const int32_t token = (t * 7 + 5) % config.vocab;
    request.prompt.push_back(token == kPoison ? token + 1 : token);
  }
  request.sampling.max_tokens = 6;
  request.sampling.temperature = 0;
  request.sampling.logprobs = true;
  request.text_output = false;
  return request;
}

TEST(PoisonedRowTest, EndsItsOwnRequestUnbilledAndItsBlocksAreNeverShared) {
  const Golden golden = ReadGolden("mini_4k_window_31");
  TemporaryFolder folder;
  WriteGoldenCheckpoint(golden, folder.path());
  for (const BackendCase& backend : BestBackendCases()) {
    if (!backend.emulated()) continue;
    SCOPED_TRACE(backend.name());
    Machine machine(golden, folder.path(), NameOf(backend.half), backend.half, backend);
    PoisonEmbedding(machine);
    int64_t preemptions = 0;
    const Request sound = Ask("sound", 40, golden.config);
    const Answer alone = machine.Run({sound}, kRoomy, &preemptions)[0];
    ASSERT_TRUE(alone.status.ok()) << alone.status;

    // The same prompt but for its last token, in one batch with it; then the prompt once more,
    // which may find the first request's blocks and not the poisoned one's.
    Request poisoned = sound, after = sound;
    poisoned.id = "poisoned";
    poisoned.prompt.back() = kPoison;
    after.id = "after";
    const int64_t hits_before = machine.hit_tokens();
    std::vector<Answer> answers = machine.RunInTurn({{poisoned}, {after}}, kRoomy, &preemptions);
    EXPECT_EQ(machine.hit_tokens(), hits_before) << "blocks of a poisoned request were shared";
    EXPECT_EQ(answers[0].status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(answers[0].status.ToString(), ::testing::HasSubstr("not a number"));
    EXPECT_EQ(answers[0].cost.cost_nanousd, 0);
    EXPECT_GT(answers[0].cost.machine_ns, 0);
    EXPECT_EQ(answers[1], alone);
    EXPECT_GT(answers[1].cost.cost_nanousd, 0);

    answers = machine.RunInTurn({{sound, poisoned}}, kRoomy, &preemptions);
    EXPECT_EQ(answers[0], alone) << "a neighbour's answer changed";
    EXPECT_EQ(answers[1].status.code(), absl::StatusCode::kInternal);
  }
}

}  // namespace
}  // namespace tuppence
