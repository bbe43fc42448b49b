// The weight cache on the CPU backend: what is read from it is what was packed, to the byte; and
// whatever befalls the file, the weights are right.
#include "model/weight_cache.h"

#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "cpu/cpu_backend.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint.h"
#include "model/weights.h"
#include "tests/support/tiny_checkpoint.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;

class WeightCacheTest : public ::testing::Test {
 protected:
  WeightCacheTest() { WriteTinyCheckpoint(folder_.path(), TinyConfigJson()); }

  Weights Load(const std::string& format = "int4", bool cached = true) {
    const auto files = OpenModel(folder_.path());
    EXPECT_TRUE(files.ok()) << files.status();
    WeightOptions options{.format = *ParseWeightFormat(format)};
    if (cached) options.cache_path = path_;
    auto weights = LoadWeights(files->config, *files->source, options, *backend_);
    EXPECT_TRUE(weights.ok()) << weights.status();
    return *std::move(weights);
  }

  static std::string Bytes(const Weights& weights) {
    std::string bytes;
    const auto add = [&](const std::unique_ptr<Matrix>& matrix) {
      if (!matrix) return;
      const std::span<const std::byte> held = matrix->host_bytes();
      EXPECT_FALSE(held.empty());
      bytes.append(reinterpret_cast<const char*>(held.data()), held.size());
    };
    add(weights.embedding);
    add(weights.own_head);
    for (const LayerWeights& layer : weights.layers) {
      add(layer.qkv);
      add(layer.o);
      add(layer.gate_up);
      add(layer.down);
    }
    const size_t norms = bytes.size();
    bytes.resize(norms + weights.norms->bytes());
    std::memcpy(bytes.data() + norms, weights.norms->data(), weights.norms->bytes());
    return bytes;
  }

  // Spoils the file, and expects right weights and a whole file after the next start.
  void ExpectMadeAnew(const std::string& spoilt, const std::string& why) {
    WriteFile(path_, spoilt);
    const Weights weights = Load();
    EXPECT_THAT(weights.cache_note, HasSubstr("written to " + path_));
    EXPECT_THAT(weights.cache_note, HasSubstr(why));
    EXPECT_EQ(Bytes(weights), Bytes(Load("int4", false)));
    EXPECT_THAT(Load().cache_note, HasSubstr("read from"));
  }

  TemporaryFolder folder_;
  const std::string path_ = folder_.File("tiny.weights");
  const std::unique_ptr<Backend> backend_ = *MakeCpuBackend({});
};

TEST_F(WeightCacheTest, TheSecondStartReadsWhatTheFirstPacked) {
  for (const bool tied : {false, true}) {
    nlohmann::json config = TinyConfigJson();
    config["tie_word_embeddings"] = tied;
    WriteTinyCheckpoint(folder_.path(), config);
    for (const char* format : {"f32", "bf16", "f16", "int8", "int4"}) {
      SCOPED_TRACE(testing::Message() << format << (tied ? ", tied" : ""));
      std::filesystem::remove(path_);
      const Weights packed = Load(format, false);
      EXPECT_EQ(packed.cache_note, "");
      const Weights first = Load(format);
      EXPECT_THAT(first.cache_note, HasSubstr("written"));
      const Weights second = Load(format);
      EXPECT_THAT(second.cache_note, HasSubstr("read from"));
      EXPECT_EQ(Bytes(first), Bytes(packed));
      EXPECT_EQ(Bytes(second), Bytes(packed));
      EXPECT_EQ(second.bytes, packed.bytes);
    }
  }
}

TEST_F(WeightCacheTest, AnotherCheckpointOrFormatIsMadeAnew) {
  const std::string first = Bytes(Load("int4"));
  EXPECT_THAT(Load("int8").cache_note, HasSubstr("was made of"));
  EXPECT_EQ(Bytes(Load("int8")), Bytes(Load("int8", false)));
  // The same names and sizes, other values.
  WriteTinyCheckpoint(folder_.path(), TinyConfigJson(), 1, /*seed=*/2);
  const Weights other = Load("int8");
  EXPECT_THAT(other.cache_note, HasSubstr("was made of"));
  EXPECT_EQ(Bytes(other), Bytes(Load("int8", false)));
}

TEST_F(WeightCacheTest, DamageIsSeenAndMended) {
  Load();
  const std::string whole = ReadFile(path_);
  ExpectMadeAnew("", "ends in its first 32 bytes");
  ExpectMadeAnew(whole.substr(0, 40), "header is said to have");
  ExpectMadeAnew(whole.substr(0, whole.size() / 2), "it ends within");
  for (const size_t at : {size_t{3}, size_t{17}, size_t{25}, size_t{60}, size_t{4100},
                          whole.size() / 2 / 4096 * 4096 + 5}) {
    SCOPED_TRACE(at);
    std::string spoilt = whole;
    spoilt[at] = static_cast<char>(spoilt[at] ^ 4);
    ExpectMadeAnew(spoilt, "the cache is damaged");
  }
}

TEST_F(WeightCacheTest, WhereItCannotBeWrittenTheModelStillLoads) {
  const auto files = OpenModel(folder_.path());
  WeightOptions options{.format = *ParseWeightFormat("int8")};
  options.cache_path = folder_.File("missing/tiny.weights");
  const auto weights = LoadWeights(files->config, *files->source, options, *backend_);
  ASSERT_TRUE(weights.ok());
  EXPECT_THAT(weights->cache_note, HasSubstr("not written"));
  EXPECT_THAT(weights->cache_note, HasSubstr("No such file or directory"));
}

TEST_F(WeightCacheTest, SyntheticWeightsHaveNone) {
  EXPECT_EQ(WeightCacheKey(*OpenModel(folder_.path())->source, {WeightType::kBf16, 0}, "x").ok(),
            true);
  std::filesystem::remove(folder_.File("model.safetensors"));
  const auto files = OpenModel("synthetic:phi-3-mini-4k");
  EXPECT_EQ(WeightCacheKey(*files->source, {WeightType::kBf16, 0}, "x").status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tuppence
