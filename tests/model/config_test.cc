// config.json: what is read, and what is refused with which words.
#include "model/config.h"

#include <cmath>
#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tiny_checkpoint.h"

namespace tuppence {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

absl::StatusOr<Config> Parse(const json& config, const std::string& generation = "") {
  return ParseConfig(config.dump(), generation);
}

// The tiny config with one field changed.
absl::StatusOr<Config> With(const std::string& field, const json& value) {
  json config = TinyConfigJson();
  config[field] = value;
  return Parse(config);
}

std::string ErrorOf(const absl::StatusOr<Config>& config) {
  EXPECT_FALSE(config.ok());
  return config.ok() ? "" : std::string(config.status().message());
}

json LongRopeConfig() {
  json config = TinyConfigJson();
  config["max_position_embeddings"] = 128;
  config["original_max_position_embeddings"] = 32;
  config["rope_scaling"] = {{"type", "longrope"},
                            {"short_factor", {1.0, 1.5, 2.0, 2.5}},
                            {"long_factor", {1.0, 3.0, 9.0, 27}}};
  return config;
}

// ------------------------------------------------------------------ what is read

TEST(ConfigTest, ReadsThePublishedFieldsOfPhi3Mini4k) {
  const absl::StatusOr<Config> config = ParseConfig(R"({
      "_name_or_path": "Phi-3-mini-4k-instruct", "architectures": ["Phi3ForCausalLM"],
      "attention_dropout": 0.0, "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
      "bos_token_id": 1, "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu",
      "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 8192,
      "max_position_embeddings": 4096, "model_type": "phi3", "num_attention_heads": 32,
      "num_hidden_layers": 32, "num_key_value_heads": 32,
      "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0,
      "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0, "sliding_window": 2047,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.40.2",
      "use_cache": true, "attention_bias": false, "vocab_size": 32064})",
                                                    R"({"_from_model_config": true,
      "bos_token_id": 1, "eos_token_id": [32000, 32001, 32007], "pad_token_id": 32000})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->layers, 32);
  EXPECT_EQ(config->hidden, 3072);
  EXPECT_EQ(config->heads, 32);
  EXPECT_EQ(config->kv_heads, 32);
  EXPECT_EQ(config->head_dim, 96);
  EXPECT_EQ(config->rotary_dim, 96);
  EXPECT_EQ(config->intermediate, 8192);
  EXPECT_EQ(config->vocab, 32064);
  EXPECT_EQ(config->positions_max, 4096);
  EXPECT_EQ(config->positions_original, 4096);
  EXPECT_EQ(config->sliding_window, 2047);
  EXPECT_EQ(config->rope_base, 10000.0);
  EXPECT_EQ(config->rms_norm_epsilon, 1e-5f);
  EXPECT_FALSE(config->long_rope.has_value());
  EXPECT_FALSE(config->tied_embeddings);
  EXPECT_EQ(config->bos_id, 1);
  EXPECT_EQ(config->pad_id, 32000);
  EXPECT_EQ(config->dtype, DType::kBf16);
  EXPECT_THAT(config->stop_ids, ElementsAre(32000, 32001, 32007));
  EXPECT_EQ(config->parameters(), 3821079552);
}

TEST(ConfigTest, Phi4MiniTiesEmbeddingsAndRotatesThreeQuartersOfAHead) {
  json config = TinyConfigJson();
  config.update({{"hidden_size", 3072},
                 {"num_attention_heads", 24},
                 {"num_key_value_heads", 8},
                 {"partial_rotary_factor", 0.75},
                 {"tie_word_embeddings", true},
                 {"full_attn_mod", 1},
                 {"interpolate_factor", 1},
                 {"lm_head_bias", false},
                 {"sliding_window", 262144}});
  const absl::StatusOr<Config> parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->head_dim, 128);
  EXPECT_EQ(parsed->rotary_dim, 96);
  EXPECT_EQ(parsed->kv_heads, 8);
  EXPECT_TRUE(parsed->tied_embeddings);
  EXPECT_EQ(parsed->sliding_window, 0);
}

TEST(ConfigTest, AWindowThatNoPositionReachesIsOff) {
  EXPECT_EQ(With("sliding_window", nullptr)->sliding_window, 0);
  EXPECT_EQ(With("sliding_window", 0)->sliding_window, 0);
  EXPECT_EQ(With("sliding_window", 63)->sliding_window, 63);
  EXPECT_EQ(With("sliding_window", 64)->sliding_window, 0);
  EXPECT_EQ(With("sliding_window", 262144)->sliding_window, 0);
}

TEST(ConfigTest, StopIdsAreTheUnionOfBothFiles) {
  json config = TinyConfigJson();
  config["eos_token_id"] = {7, 2};
  EXPECT_THAT(Parse(config, R"({"eos_token_id": [9, 2]})")->stop_ids, ElementsAre(2, 7, 9));
  EXPECT_THAT(Parse(config, R"({"eos_token_id": 3})")->stop_ids, ElementsAre(2, 3, 7));
  EXPECT_THAT(Parse(config, R"({})")->stop_ids, ElementsAre(2, 7));
  config["eos_token_id"] = nullptr;
  EXPECT_THAT(Parse(config)->stop_ids, ElementsAre());
}

TEST(ConfigTest, LongRopeIsReadUnderAllItsNames) {
  for (const char* name : {"longrope", "su", "yarn"}) {
    json config = LongRopeConfig();
    config["rope_scaling"]["type"] = name;
    const absl::StatusOr<Config> parsed = Parse(config);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ASSERT_TRUE(parsed->long_rope.has_value());
    EXPECT_THAT(parsed->long_rope->short_factor, ElementsAre(1.0f, 1.5f, 2.0f, 2.5f));
    EXPECT_THAT(parsed->long_rope->long_factor, ElementsAre(1.0f, 3.0f, 9.0f, 27.0f));
    EXPECT_EQ(parsed->positions_original, 32);
    EXPECT_EQ(parsed->short_rope_tokens_max(), 32);
  }
}

TEST(ConfigTest, NewerRopeParametersSayTheSame) {
  json config = LongRopeConfig();
  json rope = config["rope_scaling"];
  rope.erase("type");
  rope.update({{"rope_type", "longrope"},
               {"rope_theta", 250000.0},
               {"original_max_position_embeddings", 16},
               {"factor", 8.0},
               {"attention_factor", 1.25}});
  config.erase("rope_scaling");
  config.erase("rope_theta");
  config.erase("original_max_position_embeddings");
  config["rope_parameters"] = rope;
  const absl::StatusOr<Config> parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->rope_base, 250000.0);
  EXPECT_EQ(parsed->positions_original, 16);
  EXPECT_EQ(parsed->long_rope->attention_factor, 1.25);

  config["rope_parameters"] = {{"rope_theta", 500000.0}, {"rope_type", "default"}};
  EXPECT_EQ(Parse(config)->rope_base, 500000.0);
  EXPECT_FALSE(Parse(config)->long_rope.has_value());
}

TEST(ConfigTest, AbsentFieldsTakeThePublishedDefaults) {
  json config = TinyConfigJson();
  for (const char* field : {"num_key_value_heads", "rope_theta", "rope_scaling", "rms_norm_eps",
                            "hidden_act", "tie_word_embeddings", "sliding_window", "torch_dtype",
                            "original_max_position_embeddings", "architectures"}) {
    config.erase(field);
  }
  const absl::StatusOr<Config> parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->kv_heads, 4);
  EXPECT_EQ(parsed->rope_base, 10000.0);
  EXPECT_EQ(parsed->rms_norm_epsilon, 1e-5f);
  EXPECT_EQ(parsed->dtype, DType::kBf16);
  EXPECT_EQ(parsed->positions_original, 64);
}

TEST(ConfigTest, AHeadDimOfItsOwnNeedNotFillTheHiddenSize) {
  json config = TinyConfigJson();
  config["head_dim"] = 16;
  EXPECT_EQ(Parse(config)->head_dim, 16);
  EXPECT_EQ(Parse(config)->attention_cols(), 64);
  EXPECT_EQ(Parse(config)->qkv_rows(), 128);
}

TEST(ConfigTest, FieldsThatCannotChangeAnAnswerAreIgnored) {
  json config = TinyConfigJson();
  config["attention_dropout"] = 0.5;
  config["use_cache"] = false;
  ASSERT_TRUE(Parse(config).ok()) << Parse(config).status();
  EXPECT_THAT(Parse(config)->unknown_fields, IsEmpty());
}

TEST(ConfigTest, UnknownFieldsAreNamed) {
  json config = TinyConfigJson();
  config["something_new"] = {{"nested", 1}};
  config["another"] = nullptr;
  config["attention_bias"] = false;
  ASSERT_TRUE(Parse(config).ok()) << Parse(config).status();
  EXPECT_THAT(Parse(config)->unknown_fields, ElementsAre("another", "something_new"));
}

// ------------------------------------------------------------------ what is refused

TEST(ConfigTest, OtherArchitecturesAreRefusedByName) {
  const auto error = [](const char* architecture) {
    return ErrorOf(With("architectures", {architecture}));
  };
  EXPECT_THAT(error("Phi3SmallForCausalLM"),
              AllOf(HasSubstr("config.json: architecture Phi3SmallForCausalLM is Phi-3-small"),
                    HasSubstr("supported are Phi3ForCausalLM"), HasSubstr("serve one of those")));
  EXPECT_THAT(error("PhiMoEForCausalLM"), HasSubstr("mixture of experts"));
  EXPECT_THAT(error("Phi3VForCausalLM"), HasSubstr("reads images"));
  EXPECT_THAT(error("PhiForCausalLM"), HasSubstr("Phi-2"));
  EXPECT_THAT(error("LlamaForCausalLM"), HasSubstr("architecture is \"LlamaForCausalLM\""));
  EXPECT_THAT(ErrorOf(With("model_type", "llama")), HasSubstr("model_type is \"llama\""));
  EXPECT_THAT(ErrorOf(With("architectures", json::array())), HasSubstr("architectures is []"));
  EXPECT_THAT(ErrorOf(With("architectures", "Phi3ForCausalLM")), HasSubstr("architectures is"));
  json neither = TinyConfigJson();
  neither.erase("architectures");
  neither.erase("model_type");
  EXPECT_THAT(ErrorOf(Parse(neither)), HasSubstr("neither architectures nor model_type"));
}

TEST(ConfigTest, FieldsThatNeedOtherArithmeticAreRefusedByName) {
  EXPECT_THAT(ErrorOf(With("attention_bias", true)),
              HasSubstr("attention_bias is true; biases are not supported"));
  EXPECT_THAT(ErrorOf(With("mlp_bias", true)), HasSubstr("mlp_bias"));
  EXPECT_THAT(ErrorOf(With("quantization_config", {{"quant_method", "awq"}})),
              AllOf(HasSubstr("quantization_config"), HasSubstr("--weights int8 or int4")));
  EXPECT_THAT(ErrorOf(With("num_local_experts", 16)), HasSubstr("mixtures of experts"));
  EXPECT_THAT(ErrorOf(With("final_logit_softcapping", 30.0)), HasSubstr("capped logits"));
  EXPECT_THAT(ErrorOf(With("hidden_act", "gelu")), HasSubstr("hidden_act is \"gelu\""));
  EXPECT_THAT(ErrorOf(With("hidden_act", 3)), HasSubstr("hidden_act is 3"));
  EXPECT_THAT(ErrorOf(With("torch_dtype", "float8_e4m3fn")), HasSubstr("float8_e4m3fn"));
  json mixed = TinyConfigJson();
  mixed["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_TRUE(Parse(mixed).ok());  // without a window the two are the same
  mixed["sliding_window"] = 32;
  EXPECT_THAT(ErrorOf(Parse(mixed)), HasSubstr("layer_types"));
}

struct SizeCase {
  const char* field;
  json value;
  const char* message;
};

void PrintTo(const SizeCase& test, std::ostream* out) { *out << test.field << " " << test.value; }

class ConfigSizeTest : public ::testing::TestWithParam<SizeCase> {};

TEST_P(ConfigSizeTest, IsRefusedWithWhatIsAllowed) {
  const SizeCase& test = GetParam();
  EXPECT_THAT(ErrorOf(With(test.field, test.value)),
              AllOf(HasSubstr("config.json: "), HasSubstr(test.field), HasSubstr(test.message)));
}

INSTANTIATE_TEST_SUITE_P(
    BadSizes, ConfigSizeTest,
    ::testing::Values(
        SizeCase{"num_attention_heads", 0, "is 0; allowed is a whole number from 1 to 1024"},
        SizeCase{"num_attention_heads", -4, "is -4; allowed"},
        SizeCase{"num_attention_heads", 1 << 30, "is 1073741824; allowed"},
        SizeCase{"num_attention_heads", uint64_t{1} << 63, "is 9223372036854775808; allowed"},
        SizeCase{"num_attention_heads", 1e300, "is 1e+300; allowed"},
        SizeCase{"num_attention_heads", "32", "is \"32\"; allowed"},
        SizeCase{"num_attention_heads", 4.0, "is 4.0; allowed"},
        SizeCase{"num_attention_heads", true, "is true; allowed"},
        SizeCase{"num_attention_heads", nullptr, "is missing"},
        SizeCase{"num_attention_heads", 6, "without a head_dim the second must divide"},
        SizeCase{"num_key_value_heads", 3, "divide the second"},
        SizeCase{"num_key_value_heads", 0, "is 0; allowed"},
        SizeCase{"num_key_value_heads", 8, "divide the second"},
        SizeCase{"num_hidden_layers", 0, "is 0; allowed is a whole number from 1"},
        SizeCase{"num_hidden_layers", 1000000, "allowed is a whole number from 1"},
        SizeCase{"hidden_size", -32, "is -32; allowed"},
        SizeCase{"hidden_size", 36, "is 36; supported are multiples of 8"},
        SizeCase{"intermediate_size", 50, "is 50; supported are multiples of 8"},
        SizeCase{"intermediate_size", nullptr, "is missing"},
        SizeCase{"vocab_size", 0, "is 0; allowed"},
        SizeCase{"vocab_size", int64_t{1} << 40, "allowed is a whole number"},
        SizeCase{"head_dim", 12, "head_dim is 12; supported are multiples of 8"},
        SizeCase{"head_dim", 512, "is 512; allowed is a whole number from 8 to 256"},
        SizeCase{"max_position_embeddings", 0, "is 0; allowed"},
        SizeCase{"max_position_embeddings", 1 << 25,
                 "allowed is a whole number from 1 to 16777216"},
        SizeCase{"sliding_window", -1, "is -1; allowed"},
        SizeCase{"rms_norm_eps", 0.0, "allowed is a number above 0"},
        SizeCase{"rms_norm_eps", -1e-5, "allowed is a number above 0"},
        SizeCase{"rope_theta", 1.0, "allowed is a number above 1"},
        SizeCase{"rope_theta", -10000, "allowed is a number above 0"},
        SizeCase{"rope_theta", "10000", "allowed is a number above 0"},
        SizeCase{"partial_rotary_factor", 1.5, "at most 1"},
        SizeCase{"partial_rotary_factor", 0.4, "rotates 3 of 8 dimensions"},
        SizeCase{"tie_word_embeddings", 1, "is 1; allowed is true or false"},
        SizeCase{"eos_token_id", 40, "is 40; allowed is a token id from 0 to 39"},
        SizeCase{"eos_token_id", json::array({2, -1}), "is -1; allowed is a token id"},
        SizeCase{"bos_token_id", 40, "is 40; allowed"},
        SizeCase{"torch_dtype", 16, "is 16; allowed is a string"}));

TEST(ConfigTest, TheFirstProblemIsReportedWithItsWayOut) {
  EXPECT_THAT(ErrorOf(With("num_attention_heads", 0)), HasSubstr("download it again"));
}

struct RopeCase {
  const char* field;
  json value;
  const char* message;
};

void PrintTo(const RopeCase& test, std::ostream* out) { *out << test.field << " " << test.value; }

class ConfigRopeTest : public ::testing::TestWithParam<RopeCase> {};

TEST_P(ConfigRopeTest, IsRefusedByItsField) {
  json config = LongRopeConfig();
  const RopeCase& test = GetParam();
  if (test.value.is_null()) {
    config["rope_scaling"].erase(test.field);
  } else {
    config["rope_scaling"][test.field] = test.value;
  }
  EXPECT_THAT(ErrorOf(Parse(config)),
              AllOf(HasSubstr("config.json: rope_scaling: "), HasSubstr(test.message)));
}

INSTANTIATE_TEST_SUITE_P(
    BadRopes, ConfigRopeTest,
    ::testing::Values(
        RopeCase{"type", "linear", "the type is \"linear\""},
        RopeCase{"type", "default", "factor lists"},
        RopeCase{"type", nullptr, "neither type nor rope_type"},
        RopeCase{"rope_type", "llama3", "they must agree"},
        RopeCase{"short_factor", nullptr, "short_factor is missing"},
        RopeCase{"short_factor", json::array({1, 2, 3}), "short_factor has 3 entries"},
        RopeCase{"long_factor", json::array({1, 2, 3, 0}), "long_factor[3] is 0"},
        RopeCase{"long_factor", json::array({1, -2, 3, 4}), "long_factor[1] is -2"},
        RopeCase{"long_factor", json::array({1, "x", 3, 4}), "long_factor[1] is \"x\""},
        RopeCase{"long_factor", json::array({1, 2, 3, 1e300}), "long_factor[3] is 1e+300"},
        RopeCase{"long_factor", 4, "long_factor is 4"},
        RopeCase{"short_mscale", 1.2, "expected are both or neither"},
        RopeCase{"attention_factor", -1, "attention_factor is -1"},
        RopeCase{"factor", 32.0, "factor is 32"},
        RopeCase{"beta_fast", 32, "\"beta_fast\" is not known"},
        RopeCase{"original_max_position_embeddings", 0, "is 0; allowed"}));

TEST(ConfigTest, RealYarnIsNotTakenForLongRope) {
  json config = TinyConfigJson();
  config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}};
  EXPECT_THAT(ErrorOf(Parse(config)), HasSubstr("the type is \"yarn\""));
}

TEST(ConfigTest, TwoRopeDescriptionsMustAgree) {
  json config = LongRopeConfig();
  config["rope_parameters"] = config["rope_scaling"];
  EXPECT_TRUE(Parse(config).ok()) << Parse(config).status();
  config["rope_parameters"]["long_factor"][0] = 2.0;
  EXPECT_THAT(ErrorOf(Parse(config)), HasSubstr("say different things"));
}

TEST(ConfigTest, JsonThatTwoReadersMayReadDifferentlyIsRefused) {
  const auto error = [](const std::string& text) { return ErrorOf(ParseConfig(text, "")); };
  EXPECT_THAT(error(R"({"hidden_size": 8, "hidden_size": 16})"),
              HasSubstr("config.json: JSON key \"hidden_size\" stands twice"));
  EXPECT_THAT(error(R"({"a": {"b": 1, "b": 1}})"), HasSubstr("stands twice"));
  EXPECT_THAT(error(""), HasSubstr("config.json: not valid JSON"));
  EXPECT_THAT(error("{} x"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error("{\"a\": NaN}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error("{\"a\": 1e400}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error("{\"a\": \"\xff\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error("[1]"), HasSubstr("expected is a JSON object"));
}

TEST(ConfigTest, DeepJsonIsRefusedAtAnyDepth) {
  for (const int depth : {33, 1000, 1000000}) {
    const std::string text = "{\"a\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
    EXPECT_THAT(ErrorOf(ParseConfig(text, "")), HasSubstr("nested deeper than 32 levels"));
  }
}

TEST(ConfigTest, AnAlteredGenerationConfigIsRefusedByItsName) {
  const auto error = [](const std::string& text) {
    return ErrorOf(ParseConfig(TinyConfigJson().dump(), text));
  };
  EXPECT_THAT(error("{"), HasSubstr("generation_config.json: not valid JSON"));
  EXPECT_THAT(error(R"({"eos_token_id": 99})"),
              HasSubstr("generation_config.json: eos_token_id is 99"));
}

TEST(ConfigTest, FilesAreNamedWithTheirFolder) {
  TemporaryFolder folder;
  EXPECT_THAT(ErrorOf(ReadConfig(folder.path())),
              AllOf(HasSubstr(folder.File("config.json")), HasSubstr("No such file"),
                    HasSubstr("a model folder holds config.json")));
  WriteFile(folder.File("config.json"), "{");
  EXPECT_THAT(ErrorOf(ReadConfig(folder.path())),
              HasSubstr(folder.File("config.json") + ": not valid JSON"));
  WriteFile(folder.File("config.json"), TinyConfigJson().dump());
  EXPECT_TRUE(ReadConfig(folder.path()).ok());
  WriteFile(folder.File("generation_config.json"), "[]");
  EXPECT_THAT(ErrorOf(ReadConfig(folder.path())), HasSubstr(folder.File("generation_config.json")));
  WriteFile(folder.File("config.json"), std::string(5 << 20, ' '));
  EXPECT_THAT(ErrorOf(ReadConfig(folder.path())), HasSubstr("has 5242880 bytes; allowed are"));
}

TEST(ConfigTest, MessagesStayShortForLongValues) {
  const std::string error = ErrorOf(With("hidden_act", std::string(100000, 'x')));
  EXPECT_LT(error.size(), 1000u);
  EXPECT_THAT(error, Not(HasSubstr("\n")));
}

}  // namespace
}  // namespace tuppence
