// Loading weights: what is checked before anything is read, what the backend gets in each format,
// and how much memory it takes on the way.
#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint.h"
#include "model/convert.h"
#include "model/float16.h"
#include "model/phi3_tensors.h"
#include "model/quantize.h"
#include "model/synthetic.h"
#include "tests/support/recording_backend.h"
#include "tests/support/tiny_checkpoint.h"

namespace tuppence {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

// A tiny checkpoint whose tensors a test may alter before it loads them.
class WeightsTest : public ::testing::Test {
 protected:
  void Configure(const json& config) {
    config_ = *ParseConfig(config.dump(), "");
    tensors_ = TinyTensors(config_);
  }
  WeightsTest() { Configure(TinyConfigJson()); }

  TinyTensor& Find(const std::string& name) {
    return *std::find_if(tensors_.begin(), tensors_.end(),
                         [&name](const TinyTensor& tensor) { return tensor.name == name; });
  }

  absl::StatusOr<Weights> Load(const std::string& format = "bf16", int64_t staging_bytes = 100) {
    WriteTinyTensors(folder_.path(), tensors_);
    auto source = OpenCheckpoint(folder_.path());
    if (!source.ok()) return source.status();
    const WeightOptions options{.format = *ParseWeightFormat(format),
                                .staging_bytes = staging_bytes};
    return LoadWeights(config_, **source, options, backend_);
  }

  std::string ErrorOfLoad(const std::string& format = "bf16") {
    const absl::StatusOr<Weights> weights = Load(format);
    EXPECT_FALSE(weights.ok());
    return weights.ok() ? "" : std::string(weights.status().message());
  }

  // A tensor's values as stored, in f32.
  std::vector<float> Stored(const std::string& name) {
    const TinyTensor& tensor = Find(name);
    const DType type = config_.dtype;
    std::vector<float> values(tensor.bytes.size() / BytesOf(type));
    ConvertToF32(type, tensor.bytes.data(), static_cast<int64_t>(values.size()), values.data());
    return values;
  }

  TemporaryFolder folder_;
  Config config_;
  std::vector<TinyTensor> tensors_;
  RecordingBackend backend_;
};

const RecordedMatrix& Recorded(const Matrix& matrix) {
  return static_cast<const RecordedMatrix&>(matrix);
}

// What the backend got, in f32.
std::vector<float> Received(const Matrix& matrix) {
  const RecordedMatrix& recorded = Recorded(matrix);
  const MatrixSpec& spec = matrix.spec();
  std::vector<float> values(spec.rows * spec.cols);
  for (int64_t r = 0; r < spec.rows; ++r) {
    const void* row = recorded.values[r].data();
    float* out = values.data() + r * spec.cols;
    switch (spec.format.type) {
      case WeightType::kF32:
        ConvertToF32(DType::kF32, row, spec.cols, out);
        break;
      case WeightType::kBf16:
        ConvertToF32(DType::kBf16, row, spec.cols, out);
        break;
      case WeightType::kF16:
        ConvertToF32(DType::kF16, row, spec.cols, out);
        break;
      default:
        DequantiseRows(static_cast<const int8_t*>(row), recorded.scales[r].data(), 1, spec.cols,
                       spec.format, out);
    }
  }
  return values;
}

std::vector<float> ValuesOf(const Tensor& tensor) {
  const float* values = tensor.as<float>();
  return std::vector<float>(values, values + tensor.elements());
}

// ------------------------------------------------------------------ honest checkpoints

TEST_F(WeightsTest, EveryTensorArrivesOnceInItsPlace) {
  const absl::StatusOr<Weights> weights = Load();
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(Received(*weights->embedding), Stored("model.embed_tokens.weight"));
  EXPECT_EQ(Received(weights->head()), Stored("lm_head.weight"));
  EXPECT_EQ(ValuesOf(weights->final_norm), Stored("model.norm.weight"));
  ASSERT_EQ(weights->layers.size(), 2u);
  for (int layer = 0; layer < 2; ++layer) {
    const LayerWeights& got = weights->layers[layer];
    EXPECT_EQ(ValuesOf(got.input_norm), Stored(LayerTensorName(layer, kInputNormPart)));
    EXPECT_EQ(ValuesOf(got.post_norm), Stored(LayerTensorName(layer, kPostNormPart)));
    EXPECT_EQ(Received(*got.qkv), Stored(LayerTensorName(layer, kQkvPart)));
    EXPECT_EQ(Received(*got.o), Stored(LayerTensorName(layer, kOutputPart)));
    EXPECT_EQ(Received(*got.gate_up), Stored(LayerTensorName(layer, kGateUpPart)));
    EXPECT_EQ(Received(*got.down), Stored(LayerTensorName(layer, kDownPart)));
    EXPECT_EQ(got.gate_up->spec().pairing, RowPairing::kGateUp);
    EXPECT_EQ(got.qkv->spec().pairing, RowPairing::kNone);
  }
}

TEST_F(WeightsTest, EveryStoredTypeLoadsAsEveryFormat) {
  for (const char* dtype : {"float32", "bfloat16", "float16"}) {
    for (const char* format : {"f32", "bf16", "int8", "int4"}) {
      json config = TinyConfigJson();
      config["torch_dtype"] = dtype;
      Configure(config);
      const absl::StatusOr<Weights> weights = Load(format);
      ASSERT_TRUE(weights.ok()) << dtype << " as " << format << ": " << weights.status();
      const std::string name = LayerTensorName(1, kDownPart);
      const WeightFormat wanted = *ParseWeightFormat(format);
      std::vector<float> expected = Stored(name);
      if (wanted.type == WeightType::kBf16) {
        for (float& value : expected) value = ToFloat(ToBf16(value));
      } else if (wanted.quantised()) {
        const int64_t cols = config_.intermediate;
        const int64_t rows = static_cast<int64_t>(expected.size()) / cols;
        std::vector<int8_t> codes(expected.size());
        std::vector<uint16_t> scales(rows * GroupsOf(cols, wanted.group));
        QuantiseRows(expected.data(), rows, cols, wanted, codes.data(), scales.data());
        DequantiseRows(codes.data(), scales.data(), rows, cols, wanted, expected.data());
      }
      EXPECT_EQ(Received(*weights->layers[1].down), expected) << dtype << " as " << format;
      // The embedding and the norms stay as stored.
      EXPECT_EQ(Received(*weights->embedding), Stored("model.embed_tokens.weight"));
      EXPECT_EQ(ValuesOf(weights->final_norm), Stored("model.norm.weight"));
    }
  }
}

TEST_F(WeightsTest, TheHeadIsInt8InBothQuantisedModes) {
  for (const char* format : {"int8", "int4"}) {
    const absl::StatusOr<Weights> weights = Load(format);
    ASSERT_TRUE(weights.ok());
    EXPECT_EQ(weights->head().spec().format.type, WeightType::kInt8);
    EXPECT_EQ(weights->head().spec().format.group, 128);
    EXPECT_EQ(weights->embedding->spec().format.type, WeightType::kBf16);
  }
}

TEST_F(WeightsTest, TiedEmbeddingsAreOneMatrixWhereTheFormatIsTheSame) {
  json config = TinyConfigJson();
  config["tie_word_embeddings"] = true;
  Configure(config);
  const absl::StatusOr<Weights> shared = Load("bf16");
  ASSERT_TRUE(shared.ok()) << shared.status();
  EXPECT_EQ(&shared->head(), shared->embedding.get());

  const absl::StatusOr<Weights> quantised = Load("int4");
  ASSERT_TRUE(quantised.ok()) << quantised.status();
  EXPECT_NE(&quantised->head(), quantised->embedding.get());
  EXPECT_EQ(quantised->head().spec().format.type, WeightType::kInt8);
  EXPECT_EQ(Received(*quantised->embedding), Stored("model.embed_tokens.weight"));
  const std::vector<float> head = Received(quantised->head());
  const std::vector<float> stored = Stored("model.embed_tokens.weight");
  for (size_t i = 0; i < stored.size(); ++i) EXPECT_NEAR(head[i], stored[i], 0.25f / 127);

  const absl::StatusOr<Weights> wider = Load("f32");
  ASSERT_TRUE(wider.ok());
  EXPECT_EQ(Received(wider->head()), Stored("model.embed_tokens.weight"));
}

TEST_F(WeightsTest, ChunksOfAnySizeGiveTheSameWeights) {
  const absl::StatusOr<Weights> whole = Load("int4", 1 << 20);
  const absl::StatusOr<Weights> rows = Load("int4", 1);  // one row at a time
  ASSERT_TRUE(whole.ok() && rows.ok());
  EXPECT_EQ(Received(*whole->layers[0].gate_up), Received(*rows->layers[0].gate_up));
  EXPECT_EQ(Received(whole->head()), Received(rows->head()));
}

TEST_F(WeightsTest, NoChunkIsLargerThanTheStagingBuffer) {
  ASSERT_TRUE(Load("bf16", 1024).ok());
  EXPECT_GT(backend_.chunk_bytes_max, 512);
  EXPECT_LE(backend_.chunk_bytes_max, 1024);
}

TEST_F(WeightsTest, ProgressEndsAtAllBytes) {
  WriteTinyTensors(folder_.path(), tensors_);
  auto source = OpenCheckpoint(folder_.path());
  int64_t last = 0, total = 0;
  WeightOptions options{.format = *ParseWeightFormat("bf16"), .staging_bytes = 1 << 20};
  options.progress = [&](int64_t done, int64_t all) {
    EXPECT_GT(done, last);
    last = done;
    total = all;
  };
  ASSERT_TRUE(LoadWeights(config_, **source, options, backend_).ok());
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, 2 * config_.parameters());
}

TEST_F(WeightsTest, ThePlanIsWhatLoadingTakes) {
  for (const bool tied : {false, true}) {
    for (const char* format : {"f32", "bf16", "int8", "int4"}) {
      json config = TinyConfigJson();
      config["tie_word_embeddings"] = tied;
      Configure(config);
      const absl::StatusOr<Weights> weights = Load(format);
      ASSERT_TRUE(weights.ok());
      const WeightPlan plan =
          PlanWeights(config_, {.format = *ParseWeightFormat(format), .staging_bytes = 100});
      EXPECT_EQ(plan.total_bytes(), weights->bytes) << format << (tied ? " tied" : "");
      EXPECT_EQ(plan.head_bytes == 0, tied && std::string(format) == "bf16");
    }
  }
}

TEST_F(WeightsTest, ThePlanOfPhi3MiniIsTheKnownSize) {
  const Config config = *SyntheticConfig("phi-3-mini-4k");
  const auto gib = [&](const char* format) {
    const WeightOptions options{.format = *ParseWeightFormat(format)};
    return static_cast<double>(PlanWeights(config, options).total_bytes()) / (1 << 30);
  };
  EXPECT_NEAR(gib("bf16"), 7.12, 0.01);
  EXPECT_NEAR(gib("f32"), 14.05, 0.01);
  EXPECT_NEAR(gib("int8"), 3.71, 0.01);
  EXPECT_NEAR(gib("int4"), 2.18, 0.01);
}

TEST_F(WeightsTest, FrequenciesOfOlderExportsAndATiedHeadAreNotRead) {
  tensors_.push_back(
      {"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {4}, std::string(16, '\xff')});
  EXPECT_TRUE(Load().ok()) << Load().status();
  json config = TinyConfigJson();
  config["tie_word_embeddings"] = true;
  config_ = *ParseConfig(config.dump(), "");
  EXPECT_TRUE(Load().ok()) << Load().status();
}

TEST_F(WeightsTest, AnUnknownFormatIsAnsweredWithTheKnownOnes) {
  EXPECT_EQ(ParseWeightFormat("int8")->group, 128);
  EXPECT_EQ(ParseWeightFormat("int4")->group, 32);
  EXPECT_THAT(std::string(ParseWeightFormat("fp8").status().message()),
              HasSubstr("\"fp8\"; allowed are bf16, f16, f32, int8, int4"));
}

// ------------------------------------------------------------------ refused checkpoints

TEST_F(WeightsTest, AMissingTensorIsNamedBeforeAnythingIsRead) {
  tensors_.erase(tensors_.begin() + 5);
  EXPECT_THAT(ErrorOfLoad(),
              AllOf(HasSubstr(folder_.path()),
                    HasSubstr("tensor model.layers.0.mlp.gate_up_proj.weight [96, 32] is missing"),
                    HasSubstr("download it again")));
  EXPECT_EQ(backend_.matrices, 0);
}

TEST_F(WeightsTest, AnExtraTensorIsNamedBeforeAnythingIsRead) {
  tensors_.push_back(
      {"model.layers.0.self_attn.qkv_proj.bias", "BF16", {64}, std::string(128, '\0')});
  EXPECT_THAT(ErrorOfLoad(),
              AllOf(HasSubstr(folder_.File("model.safetensors")),
                    HasSubstr("tensor model.layers.0.self_attn.qkv_proj.bias is not part of this "
                              "model (2 layers, no biases"),
                    HasSubstr("download")));
  EXPECT_EQ(backend_.matrices, 0);
}

TEST_F(WeightsTest, AnotherShapeThanTheConfigsIsNamedWithBoth) {
  TinyTensor& norm = Find("model.norm.weight");
  norm.shape = {31};
  norm.bytes.resize(62);
  EXPECT_THAT(ErrorOfLoad(),
              AllOf(HasSubstr(folder_.File("model.safetensors")),
                    HasSubstr("tensor model.norm.weight has shape [31], expected [32]")));
  Configure(TinyConfigJson());
  std::swap(Find("model.layers.1.mlp.down_proj.weight").shape[0],
            Find("model.layers.1.mlp.down_proj.weight").shape[1]);
  EXPECT_THAT(ErrorOfLoad(), HasSubstr("down_proj.weight has shape [48, 32], expected [32, 48]"));
  Configure(TinyConfigJson());
  Find("model.norm.weight").shape = {1, 32};
  EXPECT_THAT(ErrorOfLoad(), HasSubstr("has shape [1, 32], expected [32]"));
  EXPECT_EQ(backend_.matrices, 0);
}

TEST_F(WeightsTest, ATypeThatIsNoWeightIsRefused) {
  Find("model.norm.weight").dtype = "I16";
  EXPECT_THAT(ErrorOfLoad(), AllOf(HasSubstr("model.norm.weight"), HasSubstr("dtype is I16")));
}

// Its bytes are right for its own type, so only config.json contradicts it.
TEST_F(WeightsTest, AnotherTypeThanTheConfigsIsNamedWithBoth) {
  TinyTensor& embedding = Find("model.embed_tokens.weight");
  embedding.dtype = "F32";
  embedding.bytes.assign(2 * embedding.bytes.size(), 0);
  EXPECT_THAT(ErrorOfLoad(), AllOf(HasSubstr("model.embed_tokens.weight is f32"),
                                   HasSubstr("config.json says bf16"), HasSubstr("torch_dtype")));
  // Norms may be kept in more than the rest.
  Configure(TinyConfigJson());
  TinyTensor& norm = Find("model.norm.weight");
  norm.dtype = "F32";
  norm.bytes.assign(2 * norm.bytes.size(), 0);
  EXPECT_TRUE(Load("bf16").ok()) << Load("bf16").status();
}

TEST_F(WeightsTest, NanAndInfinityAreNamedWithTheirPlace) {
  const auto set = [this](const std::string& name, size_t index, uint16_t bits) {
    std::memcpy(Find(name).bytes.data() + 2 * index, &bits, 2);
  };
  set("model.layers.1.self_attn.o_proj.weight", 3 * 32 + 17, 0x7fc0);
  EXPECT_THAT(ErrorOfLoad(),
              AllOf(HasSubstr(folder_.File("model.safetensors")),
                    HasSubstr("tensor model.layers.1.self_attn.o_proj.weight holds nan at [3, 17]"),
                    HasSubstr("finite")));
  EXPECT_THAT(ErrorOfLoad("int4"), HasSubstr("holds nan at [3, 17]"));
  Configure(TinyConfigJson());
  set("lm_head.weight", 39 * 32 + 31, 0xff80);
  EXPECT_THAT(ErrorOfLoad(), HasSubstr("lm_head.weight holds -inf at [39, 31]"));
  Configure(TinyConfigJson());
  set("model.norm.weight", 9, 0x7f80);
  EXPECT_THAT(ErrorOfLoad(), HasSubstr("model.norm.weight holds inf at [9]"));
}

TEST_F(WeightsTest, ValuesThatAScaleCannotHoldAreRefusedRatherThanClipped) {
  json config = TinyConfigJson();
  config["torch_dtype"] = "float32";
  Configure(config);
  const float large = 1e7f;
  std::memcpy(Find("model.layers.0.mlp.down_proj.weight").bytes.data() + 4 * (48 * 2 + 40), &large,
              4);
  EXPECT_TRUE(Load("bf16").ok());
  EXPECT_THAT(ErrorOfLoad("int4"),
              AllOf(HasSubstr("down_proj.weight holds values too large for int4 in row 2, group 1"),
                    HasSubstr("--weights bf16")));
}

TEST_F(WeightsTest, WeightsAsF16AreTheNearestOrRefused) {
  json config = TinyConfigJson();
  config["torch_dtype"] = "float32";
  Configure(config);
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const absl::StatusOr<Weights> weights = Load("f16");
  ASSERT_TRUE(weights.ok()) << weights.status();
  const std::vector<float> stored = Stored(name), received = Received(*weights->layers[0].down);
  for (size_t i = 0; i < stored.size(); ++i) {
    ASSERT_EQ(received[i], ToFloat(ToF16(stored[i]))) << i;
  }
  const float large = 65520;  // rounds to infinity; 65519 would round to 65504
  std::memcpy(Find(name).bytes.data() + 4 * (48 * 2 + 40), &large, 4);
  EXPECT_THAT(ErrorOfLoad("f16"),
              AllOf(HasSubstr("down_proj.weight holds a value too large for f16 at [2, 40]"),
                    HasSubstr("--weights int8")));
}

// A source whose file shrinks while its tensors are read.
TEST_F(WeightsTest, AFileThatShrinksDuringLoadIsAnError) {
  WriteTinyTensors(folder_.path(), tensors_);
  auto source = OpenCheckpoint(folder_.path());
  ASSERT_TRUE(source.ok());
  bool shrunk = false;
  WeightOptions options{.format = *ParseWeightFormat("bf16"), .staging_bytes = 100};
  options.progress = [&](int64_t done, int64_t total) {
    if (shrunk || done < total / 2) return;
    shrunk = true;
    std::filesystem::resize_file(folder_.File("model.safetensors"), 1000);
  };
  const absl::StatusOr<Weights> weights = LoadWeights(config_, **source, options, backend_);
  EXPECT_TRUE(absl::IsDataLoss(weights.status())) << weights.status();
  EXPECT_THAT(std::string(weights.status().message()),
              AllOf(HasSubstr(folder_.File("model.safetensors")), HasSubstr("tensor \"model."),
                    HasSubstr("has become shorter")));
}

TEST_F(WeightsTest, TooLittleMemoryIsReportedWithTheTensor) {
  backend_.bytes_max = 5000;
  const absl::StatusOr<Weights> weights = Load();
  EXPECT_TRUE(absl::IsResourceExhausted(weights.status()));
  EXPECT_THAT(std::string(weights.status().message()),
              AllOf(HasSubstr("loading tensor"), HasSubstr("no more memory")));
}

TEST_F(WeightsTest, ACheckpointCutAtAnyTensorIsRefused) {
  WriteTinyTensors(folder_.path(), tensors_);
  const std::string path = folder_.File("model.safetensors");
  const std::string whole = ReadFile(path);
  size_t data_bytes = 0;
  for (const TinyTensor& tensor : tensors_) data_bytes += tensor.bytes.size();
  size_t end = whole.size() - data_bytes;
  for (const TinyTensor& tensor : tensors_) {
    std::filesystem::resize_file(path, whole.size());
    WriteFile(path, whole.substr(0, end));
    const auto source = OpenCheckpoint(folder_.path());
    ASSERT_FALSE(source.ok()) << tensor.name;
    EXPECT_THAT(std::string(source.status().message()),
                AllOf(HasSubstr(path), HasSubstr(tensor.name), HasSubstr("it was cut off")));
    end += tensor.bytes.size();
  }
}

}  // namespace
}  // namespace tuppence
