// The whole model against the published implementation, and against itself in other company.
// Reference: tests/golden/logprobs, made by make_checkpoints.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/rope_table.h"
#include "tests/golden/golden_checkpoint.h"
#include "tests/support/model_runner.h"

namespace tuppence {
namespace {

// How far a log-probability may lie from the reference, from the roundings on the way to it.
//   A rounding of every element of a vector to p bits is noise of relative size `unit`; what a
//   matmul makes of it has the same relative size, and independent roundings add as squares. Each
//   layer rounds the input of four matmuls, and K and V once each.
//   Scores have the size of the attention factor squared (it multiplies q and k). An error of a
//   score counts twice, in its weight's numerator and in the normalising sum. K's rounding moves
//   the scores once; the rounding of qkv's input moves them through q and through k. The head
//   rounds once more. The sum is relative to the logits, whose size is logit_rms; 5 standard
//   deviations cover the some thousand comparisons of a file, and the normalising sum of a
//   log-probability moves by less than a logit does.
struct Roundings {
  double matmul = 0;  // of a matmul's input
  double kv = 0;      // of K and V
};

constexpr double kF32 = 0x1p-24 * 32;          // a sum of up to 1,000 terms: sqrt(1000) roundings
const double kBf16 = 0x1p-9 / std::sqrt(3.0);  // uniform within half a unit in the last place
const double kF16 = 0x1p-12 / std::sqrt(3.0);
const double kInt8 =
    4.0 / 127 / std::sqrt(12.0);  // the largest of a group is about 4 times its rms

double Tolerance(const Roundings& unit, const Config& config, double logit_rms) {
  const double factor = MakeRopeTable(config).attention_factors[0];
  const double scores = 4 * std::pow(factor, 4);  // an error of scores, squared
  const double matmul = unit.matmul * unit.matmul, kv = unit.kv * unit.kv;
  const double squares = config.layers * (matmul * (4 + 2 * scores) + kv * (1 + scores)) + matmul;
  return 5 * std::sqrt(squares) * logit_rms + 1e-6;  // the file keeps 7 decimals
}

double LogSumExp(const std::vector<float>& logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

struct Variant {
  std::string weights;
  DType kv;
};

// A GPU keeps 16-bit weights and pages of one type, or int8 pages.
std::vector<Variant> GpuVariantsOf(const Golden& golden, DType half) {
  const std::string weights = golden.weights == "stored" ? NameOf(half) : golden.weights;
  if (golden.cases[0].prompt.size() > 1000) return {{weights, half}};
  return {{weights, half}, {weights, DType::kI8}};
}

std::vector<Variant> VariantsOf(const Golden& golden, const BackendCase& backend) {
  if (!backend.cpu()) return GpuVariantsOf(golden, backend.half);
  if (golden.weights != "stored") {
    return {{golden.weights, DType::kF32}, {golden.weights, DType::kI8}};
  }
  std::vector<Variant> variants = {
      {"f32", DType::kF32}, {"f32", DType::kBf16}, {"f32", DType::kI8}};
  if (golden.config.dtype == DType::kBf16) variants.push_back({"bf16", DType::kBf16});
  return variants;
}

double UnitOf(DType type) {
  switch (type) {
    case DType::kF32:
      return kF32;
    case DType::kF16:
      return kF16;
    case DType::kBf16:
      return kBf16;
    default:
      return kInt8;
  }
}

// A GPU multiplies int8 and int4 weights as they are with 16-bit inputs. It also rounds q, and a
// prompt's softmax weights, as often as K and V; and weights that are stored in another type. The
// reference's own dequantised weights are rounded to the checkpoint's type.
Roundings UnitsOf(const Golden& golden, const Variant& variant, const BackendCase& backend) {
  const double kv = UnitOf(variant.kv);
  if (!backend.cpu()) {
    const double half = UnitOf(backend.half), stored = UnitOf(golden.config.dtype);
    const bool converted =
        variant.weights == NameOf(backend.half) && golden.config.dtype != backend.half;
    const double weights = converted ? half : golden.weights == "stored" ? 0 : stored;
    return {std::hypot(half, weights), std::hypot(kv, half)};
  }
  return {variant.weights == "f32" ? kF32 : variant.weights == "bf16" ? kBf16 : kInt8, kv};
}

struct Comparison {
  double worst = 0;      // the largest error of a log-probability, as a share of the tolerance
  int tokens_sure = 0;   // rows whose likeliest token no error within the tolerance can change
  int tokens_wrong = 0;  // those of them where we have another one
};

void Compare(const GoldenRow& row, const std::vector<float>& got, double tolerance,
             Comparison& result) {
  const double normaliser = LogSumExp(got);
  for (size_t i = 0; i < row.ids.size(); ++i) {
    const double error = std::abs(got[row.ids[i]] - normaliser - row.logprobs[i]);
    result.worst = std::max(result.worst, error / tolerance);
  }
  // ids[0] is the prompt's next token; the likeliest follow.
  if (row.logprobs[1] - row.logprobs[2] <= 2 * tolerance) return;
  ++result.tokens_sure;
  const auto best = std::max_element(got.begin(), got.end()) - got.begin();
  result.tokens_wrong += best != row.ids[1] ? 1 : 0;
}

Comparison Compare(const Golden& golden, const Config& config, const std::string& folder,
                   const Variant& variant, const BackendCase& backend) {
  Comparison result;
  for (const GoldenCase& one : golden.cases) {
    for (const RopeRegime regime : {RopeRegime::kShort, RopeRegime::kLong}) {
      std::vector<GoldenRow> rows;
      for (const GoldenRow& row : one.rows) {
        if (RegimeOfLength(golden.config, row.length) == regime) rows.push_back(row);
      }
      if (rows.empty()) continue;
      ModelRunner runner(config, folder, {variant.weights, variant.kv, backend}, 1,
                         static_cast<int32_t>(one.prompt.size()));
      const std::vector<int32_t> ids(one.prompt.begin(), one.prompt.begin() + rows.back().length);
      const std::vector<std::vector<float>> logits = runner.Prefill(ids, regime, 512);
      const Roundings units = UnitsOf(golden, variant, backend);
      for (const GoldenRow& row : rows) {
        Compare(row, logits[row.length - 1], Tolerance(units, config, row.logit_rms), result);
      }
    }
  }
  return result;
}

bool OnGpus(const Config& config) {
  return config.head_dim == 64 || config.head_dim == 96 || config.head_dim == 128;
}

// Every backend; the plain path, which is slow, on the small models only, and long prompts on the
// best path and on the fastest emulated GPU.
std::vector<BackendCase> BackendsFor(const Golden& golden) {
  const bool is_long = golden.cases[0].prompt.size() > 1000;
  std::vector<BackendCase> backends = is_long ? BestBackendCases() : AllBackendCases();
  std::erase_if(backends, [&](const BackendCase& backend) {
    if (backend.cpu()) return backend.plain() && golden.config.hidden > 200;
    return !OnGpus(golden.config) || (is_long && backend.arch == 75);
  });
  return backends;
}

class GoldenTest : public testing::TestWithParam<std::string> {};

TEST_P(GoldenTest, LogProbabilitiesAndTokensAgreeWithThePublishedImplementation) {
  const Golden golden = ReadGolden(GetParam());
  TemporaryFolder folder;
  WriteGoldenCheckpoint(golden, folder.path());
  for (const BackendCase& backend : BackendsFor(golden)) {
    for (const Variant& variant : VariantsOf(golden, backend)) {
      const Comparison result = Compare(golden, golden.config, folder.path(), variant, backend);
      EXPECT_EQ(result.tokens_wrong, 0) << "of " << result.tokens_sure;
      EXPECT_LT(result.worst, 1) << variant.weights << " weights, " << NameOf(variant.kv) << " KV, "
                                 << backend.name();
    }
  }
}

std::vector<int32_t> Ids(const Config& config, int32_t count, int32_t salt) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < count; ++i) ids.push_back((salt * 31 + i * (7 + salt)) % config.vocab);
  return ids;
}

TEST_P(GoldenTest, BitsDoNotDependOnChunksOrNeighbours) {
  const Golden golden = ReadGolden(GetParam());
  TemporaryFolder folder;
  WriteGoldenCheckpoint(golden, folder.path());
  const std::vector<int32_t> prompt = Ids(golden.config, 75, 1);
  for (const BackendCase& backend : BackendsFor(golden)) {
    // An emulated GPU takes its time: the small models, and one type of pages for each
    // architecture.
    if (backend.emulated() && golden.config.hidden > 400) continue;
    std::vector<Variant> variants = VariantsOf(golden, backend);
    if (backend.emulated()) variants = {variants[backend.arch == 75 ? variants.size() - 1 : 0]};
    for (const Variant& variant : variants) {
      const RunnerOptions options{variant.weights, variant.kv, backend};
      ModelRunner alone(golden.config, folder.path(), options, 1, 80);
      const auto whole = alone.Prefill(prompt, RopeRegime::kShort, 512);
      EXPECT_EQ(alone.Prefill(prompt, RopeRegime::kShort, 7), whole) << backend.name();

      // 60 tokens of prefill, then single tokens, among three others that are in mid-prompt.
      ModelRunner crowd(golden.config, folder.path(), options, 4, 80);
      const auto part = [&](int32_t sequence, const std::vector<int32_t>& ids, int32_t first,
                            int32_t count) {
        return RunnerEntry{sequence, {ids.begin() + first, ids.begin() + first + count}, first};
      };
      std::vector<std::vector<float>> rows =
          crowd.Step({part(0, Ids(golden.config, 80, 2), 0, 33), part(3, prompt, 0, 60)});
      rows.erase(rows.begin(), rows.begin() + 33);
      for (int32_t at = 60; at < 75; ++at) {
        const auto step =
            crowd.Step({part(1, Ids(golden.config, 80, 3), at - 60, 1), part(3, prompt, at, 1),
                        part(2, Ids(golden.config, 80, 4), at - 60, 1)});
        rows.push_back(step[1]);
      }
      EXPECT_EQ(rows, whole) << variant.weights << " " << backend.name();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTest, testing::ValuesIn(GoldenNames()),
                         [](const auto& info) { return info.param; });

// The comparison above would not be worth much if it let these through.
TEST(GoldenControlTest, SeesAWindowThatIsOneKeyTooWide) {
  const Golden golden = ReadGolden("mini_4k_window_31");
  TemporaryFolder folder;
  WriteGoldenCheckpoint(golden, folder.path());
  Config wrong = golden.config;
  wrong.sliding_window += 1;
  EXPECT_GT(Compare(golden, wrong, folder.path(), {"f32", DType::kF32}, {}).worst, 100);
}

TEST(GoldenControlTest, SeesAForgottenAttentionFactor) {
  const Golden golden = ReadGolden("mini_128k_longrope_64");
  TemporaryFolder folder;
  WriteGoldenCheckpoint(golden, folder.path());
  Config wrong = golden.config;
  wrong.long_rope->attention_factor = 1.0;
  EXPECT_GT(Compare(golden, wrong, folder.path(), {"f32", DType::kF32}, {}).worst, 100);
}

}  // namespace
}  // namespace tuppence
