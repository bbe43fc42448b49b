// model/tokenizer: merges, byte fallback, special tokens, decoding, and what is refused at load.
#include "model/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <sstream>

#include "tests/model/published_tokenizer.h"
#include "tests/support/tiny_checkpoint.h"
#include "tests/support/tiny_tokenizer.h"

namespace tuppence {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using tokenizer_model::ModelProto;
using tokenizer_model::TrainerSpec;

class TokenizerTest : public testing::Test {
 protected:
  absl::StatusOr<std::shared_ptr<const Tokenizer>> Load(const ModelProto& model,
                                                        const json& config) {
    WriteTokenizerModel(folder_.path(), model);
    WriteFile(folder_.File("tokenizer_config.json"), config.dump());
    return Tokenizer::Load(folder_.path(), TinyIds(model).vocab);
  }
  std::shared_ptr<const Tokenizer> Load(const ModelProto& model) {
    auto loaded = Load(model, TinyTokenizerConfig(model));
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *loaded;
  }
  // The pieces of an encoded text, with a bar between them.
  static std::string Pieces(const Tokenizer& tokenizer, const std::string& text) {
    std::string shown;
    for (const int32_t id : tokenizer.Encode(text)) {
      if (!shown.empty()) shown += '|';
      shown += tokenizer.TokenBytes(id);
    }
    return shown;
  }
  void ExpectRefused(const absl::Status& status, absl::StatusCode code, const std::string& text) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }

  TemporaryFolder folder_;
};

TEST_F(TokenizerTest, JoinsTheBestPairFirstAndTheLeftmostAmongEquals) {
  const auto tokenizer = Load(TinyTokenizerModel({"bc", "ab", "aa"}));
  EXPECT_EQ(Pieces(*tokenizer, "abc"), " |a|bc");  // "bc" comes before "ab" in the list
  EXPECT_EQ(Pieces(*tokenizer, "abd"), " |ab|d");
  EXPECT_EQ(Pieces(*tokenizer, "aaa"), " |aa|a");
}

TEST_F(TokenizerTest, EqualScoresJoinFromTheLeft) {
  ModelProto model = TinyTokenizerModel();
  AddPiece(&model, "ab", -1);
  AddPiece(&model, "bc", -1);
  EXPECT_EQ(Pieces(*Load(model), "abcbc"), " |ab|c|bc");
}

TEST_F(TokenizerTest, UnusedPiecesAreSplitAgain) {
  ModelProto model = TinyTokenizerModel({"ab"});
  AddPiece(&model, "abc", -2, ModelProto::Piece::UNUSED);
  AddPiece(&model, "abcd", -3);
  const auto tokenizer = Load(model);
  EXPECT_EQ(Pieces(*tokenizer, "abc"), " |ab|c");
  EXPECT_EQ(Pieces(*tokenizer, "abcd"), " |abcd");
}

TEST_F(TokenizerTest, UserDefinedPiecesAreFoundBeforeMergesAndTheLongestWins) {
  ModelProto model = TinyTokenizerModel({"xa"});
  AddPiece(&model, "ab", 0, ModelProto::Piece::USER_DEFINED);
  AddPiece(&model, "abc", 0, ModelProto::Piece::USER_DEFINED);
  EXPECT_EQ(Pieces(*Load(model), "xabcab"), " |x|abc|ab");
}

TEST_F(TokenizerTest, WhatIsNoPieceFallsBackToBytes) {
  const auto tokenizer = Load(TinyTokenizerModel());
  EXPECT_THAT(tokenizer->Encode("a\u00e9"),
              ElementsAre(tokenizer->Encode("a")[0], tokenizer->Encode("a")[1], kFirstByte + 0xC3,
                          kFirstByte + 0xA9));
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode("a\u00e9\n"), true), "a\u00e9\n");
}

TEST_F(TokenizerTest, EmptyTextHasNoTokens) {
  const auto tokenizer = Load(TinyTokenizerModel());
  EXPECT_TRUE(tokenizer->Encode("").empty());
  EXPECT_TRUE(tokenizer->EncodeParts({}).empty());
  EXPECT_TRUE(tokenizer->EncodeParts({{-1, ""}}).empty());
  EXPECT_EQ(tokenizer->Encode(" ").size(), 2u);
  EXPECT_EQ(tokenizer->Decode({}, true), "");
}

TEST_F(TokenizerTest, TextNeverBecomesASpecialToken) {
  // Not even where the model was trained with special tokens as user-defined or normal pieces.
  ModelProto model = TinyTokenizerModel();
  AddPiece(&model, "<|tool|>", 0, ModelProto::Piece::USER_DEFINED);
  const int32_t tool = model.pieces_size() - 1;
  json config = TinyTokenizerConfig(model);
  config["added_tokens_decoder"][std::to_string(tool)] = {{"content", "<|tool|>"},
                                                          {"special", true}};
  const auto tokenizer = Load(model, config);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->FindSpecial("<|tool|>"), tool);
  for (const char* text : {"<|tool|>", "<s>", "</s>", "<unk>", "<|end|>", "<0x41>", "1 2 3"}) {
    for (const int32_t id : (*tokenizer)->Encode(text)) {
      EXPECT_FALSE((*tokenizer)->IsSpecial(id)) << text;
    }
    EXPECT_EQ((*tokenizer)->Decode((*tokenizer)->Encode(text), true), text);
  }
}

TEST_F(TokenizerTest, SpecialTokensCutTheSpacesThatTheirFlagsSay) {
  const ModelProto model = TinyTokenizerModel();
  const TinyTokenizerIds ids = TinyIds(model);
  json config = TinyTokenizerConfig(model);
  config["added_tokens_decoder"][std::to_string(ids.end)]["lstrip"] = true;
  const auto tokenizer = Load(model, config);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<int32_t> a = (*tokenizer)->Encode("a");
  std::vector<int32_t> expected = {ids.assistant, a[0], a[1], ids.end};
  // <|assistant|> takes the white space after it, <|end|> before it; text parts are joined first.
  EXPECT_EQ(
      (*tokenizer)
          ->EncodeParts(
              {{ids.assistant, ""}, {-1, "\n"}, {-1, " \u3000a\u00a0"}, {-1, "\t"}, {ids.end, ""}}),
      expected);
  EXPECT_THAT((*tokenizer)->EncodeParts({{ids.assistant, ""}, {-1, " \n "}, {ids.end, ""}}),
              ElementsAre(ids.assistant, ids.end));
  // <|user|> takes nothing, and each segment gets its own space in front.
  expected = {ids.user, a[0], kFirstByte + '\n', a[1]};
  EXPECT_EQ((*tokenizer)->EncodeParts({{ids.user, ""}, {-1, "\n"}, {-1, "a"}}), expected);
}

TEST_F(TokenizerTest, DecodeDropsTheFirstWordsSpaceOnly) {
  const auto tokenizer = Load(TinyTokenizerModel({"\u2581a"}));
  const int32_t a = tokenizer->Encode("a").at(0);
  const TinyTokenizerIds ids = TinyIds(TinyTokenizerModel({"\u2581a"}));
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{a, a}, true), "a a");
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{1, a, ids.end}, true), "a");
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{1, a, ids.end}, false), "<s> a<|end|>");
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{kFirstByte + ' ', a}, true), "  a");
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{kFirstByte + 0xE4, kFirstByte + 0xB8}, true),
            "\uFFFD\uFFFD");
}

TEST_F(TokenizerTest, KnowsWhichIdsAreMappedAndSpecial) {
  const ModelProto model = TinyTokenizerModel();
  const TinyTokenizerIds ids = TinyIds(model);
  const auto tokenizer = Load(model);
  EXPECT_EQ(tokenizer->vocab(), ids.vocab);
  EXPECT_EQ(tokenizer->mapped_ids().size(), (static_cast<size_t>(ids.vocab) + 63) / 64);
  for (int32_t id = 0; id < ids.vocab; ++id) {
    EXPECT_EQ(tokenizer->IsMapped(id), id <= ids.user);
    EXPECT_EQ(tokenizer->mapped_ids()[id / 64] >> (id % 64) & 1, id <= ids.user);
    EXPECT_EQ(tokenizer->IsSpecial(id), id < 3 || (id >= ids.end_of_text && id <= ids.user));
  }
  EXPECT_EQ(tokenizer->FindSpecial("<|end|>"), ids.end);
  EXPECT_EQ(tokenizer->FindSpecial("a"), std::nullopt);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), ids.end_of_text);
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->TokenBytes(ids.vocab - 1), "");
}

TEST_F(TokenizerTest, TokensUpperBoundHoldsForEveryByteCount) {
  const auto tokenizer = Load(TinyTokenizerModel());
  for (const char* text : {"a", " ", "\u4e2d", "\U0001F600", "A B", "\n\n", "\u2581"}) {
    EXPECT_LE(static_cast<int64_t>(tokenizer->Encode(text).size()),
              Tokenizer::TokensUpperBound(static_cast<int64_t>(strlen(text))));
  }
}

TEST_F(TokenizerTest, AFolderWithoutATokenizerIsNotFound) {
  ExpectRefused(Tokenizer::Load(folder_.path(), 300).status(), absl::StatusCode::kNotFound,
                "no tokenizer in");
}

TEST_F(TokenizerTest, AnotherKindOfTokenizerIsUnimplementedAndNamed) {
  WriteFile(folder_.File("tokenizer.json"),
            R"({"model": {"type": "BPE", "byte_fallback": false, "vocab": {"a": 0}}})");
  WriteFile(folder_.File("merges.txt"), "");
  const absl::Status status = Tokenizer::Load(folder_.path(), 300).status();
  ExpectRefused(status, absl::StatusCode::kUnimplemented, "found tokenizer.json, merges.txt");
  ExpectRefused(status, absl::StatusCode::kUnimplemented, "BPE without byte fallback");
  ExpectRefused(status, absl::StatusCode::kUnimplemented, "token ids only");
}

TEST_F(TokenizerTest, UnsupportedSettingsAreNamed) {
  const auto refused = [this](const std::function<void(ModelProto*)>& change,
                              const std::string& text) {
    ModelProto model = TinyTokenizerModel();
    change(&model);
    ExpectRefused(Load(model, TinyTokenizerConfig(model)).status(),
                  absl::StatusCode::kUnimplemented, text);
  };
  refused([](ModelProto* m) { m->mutable_trainer_spec()->set_model_type(TrainerSpec::UNIGRAM); },
          "UNIGRAM");
  refused([](ModelProto* m) { m->mutable_trainer_spec()->set_byte_fallback(false); },
          "no byte fallback");
  refused([](ModelProto* m) { m->mutable_trainer_spec()->set_treat_whitespace_as_suffix(true); },
          "spaces after words");
  refused(
      [](ModelProto* m) {
        m->mutable_normalizer_spec()->set_name("nmt_nfkc");
        m->mutable_normalizer_spec()->set_precompiled_charsmap("x");
      },
      "nmt_nfkc");
  refused([](ModelProto* m) { m->mutable_normalizer_spec()->set_remove_extra_whitespaces(true); },
          "extra spaces");
  refused([](ModelProto* m) { m->mutable_normalizer_spec()->set_escape_whitespaces(false); },
          "escape");
}

TEST_F(TokenizerTest, DamagedModelsAreRefused) {
  const auto refused = [this](const std::function<void(ModelProto*)>& change,
                              const std::string& text) {
    ModelProto model = TinyTokenizerModel({"ab"});
    change(&model);
    ExpectRefused(Load(model, TinyTokenizerConfig(model)).status(),
                  absl::StatusCode::kInvalidArgument, text);
  };
  refused([](ModelProto* m) { m->clear_pieces(); }, "is not a SentencePiece model");
  refused([](ModelProto* m) { AddPiece(m, "ab", -9); }, "is the same as piece");
  refused([](ModelProto* m) { AddPiece(m, "", -9); }, "is empty");
  refused([](ModelProto* m) { AddPiece(m, std::string(1025, 'x'), -9); }, "allowed are 1024");
  refused([](ModelProto* m) { AddPiece(m, "xy", NAN); }, "not a number");
  refused([](ModelProto* m) { m->mutable_pieces(5)->set_piece("<0x4>"); }, "<0x00> to <0xFF>");
  refused([](ModelProto* m) { m->mutable_pieces(5)->set_type(ModelProto::Piece::NORMAL); },
          "no piece for the byte 2");
  refused([](ModelProto* m) { m->mutable_pieces(0)->set_type(ModelProto::Piece::CONTROL); },
          "0 unknown pieces");
  refused([](ModelProto* m) { m->mutable_pieces(259)->set_piece("__"); }, "no piece for a space");
}

TEST_F(TokenizerTest, ATruncatedModelIsRefusedAtEveryLength) {
  const std::string whole = TinyTokenizerModel({"ab"}).SerializeAsString();
  for (size_t length = 0; length < whole.size(); length += length < 64 ? 1 : 97) {
    WriteFile(folder_.File("tokenizer.model"), whole.substr(0, length));
    EXPECT_FALSE(Tokenizer::Load(folder_.path(), 400).ok()) << length;
  }
}

TEST_F(TokenizerTest, InvalidUtf8InAPieceIsRefused) {
  // protobuf itself may refuse it first; either way nothing is served.
  ModelProto model = TinyTokenizerModel();
  AddPiece(&model, "\xC3", -9);
  EXPECT_FALSE(Load(model, TinyTokenizerConfig(model)).ok());
}

TEST_F(TokenizerTest, MoreIdsThanTheConfigHasAreRefused) {
  const TinyTokenizerIds ids = WriteTinyTokenizer(folder_.path());
  ExpectRefused(Tokenizer::Load(folder_.path(), 200).status(), absl::StatusCode::kInvalidArgument,
                "vocab_size is 200");
  ExpectRefused(Tokenizer::Load(folder_.path(), ids.user).status(),
                absl::StatusCode::kInvalidArgument, "<|user|>");
  EXPECT_TRUE(Tokenizer::Load(folder_.path(), ids.user + 1).ok());
}

TEST_F(TokenizerTest, FilesThatContradictOneAnotherAreRefused) {
  const ModelProto model = TinyTokenizerModel();
  const TinyTokenizerIds ids = WriteTinyTokenizer(folder_.path());
  const auto refused = [&](const char* file, const json& content, const std::string& text) {
    WriteFile(folder_.File(file), content.dump());
    ExpectRefused(Tokenizer::Load(folder_.path(), ids.vocab).status(),
                  absl::StatusCode::kInvalidArgument, text);
    std::filesystem::remove(folder_.File(file));
  };
  refused("added_tokens.json", {{"<|end|>", ids.user}}, "gives <|end|> the id");
  refused("added_tokens.json", {{"<|other|>", ids.end}}, "gives the id");
  refused("added_tokens.json", {{"<|x|>", 5}}, "tokenizer.model to");
  refused("added_tokens.json", {{"<|x|>", -1}}, "out of range");
  refused("tokenizer.json",
          {{"model", {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", {{"b", 260}}}}}},
          "tokenizer.json has the piece \"b\" at id 260");
  refused("tokenizer.json",
          {{"model", {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", {{"a", 260}}}}}},
          "has 1 of the 286 pieces");
  refused("tokenizer.json",
          {{"model", {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", {{"a", -1}}}}}},
          "expected a whole number");
  for (const json& merge : {json("a z"), json{"z", "a"}, json("a a"), json(7), json{"a"}}) {
    refused("tokenizer.json",
            {{"model",
              {{"type", "BPE"},
               {"byte_fallback", true},
               {"vocab", {{"a", 260}}},
               {"merges", json::array({merge})}}}},
            "model.merges holds " + merge.dump());
  }
  json config = TinyTokenizerConfig(model);
  config["bos_token"] = "<|start|>";
  refused("tokenizer_config.json", config, "names the token <|start|>");
}

TEST_F(TokenizerTest, ATokenizerJsonThatTreatsTextInAnotherWayIsUnimplemented) {
  const TinyTokenizerIds ids = WriteTinyTokenizer(folder_.path());
  const json model = {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", json::object()}};
  const auto refused = [&](const json& content, const std::string& text) {
    WriteFile(folder_.File("tokenizer.json"), content.dump());
    ExpectRefused(Tokenizer::Load(folder_.path(), ids.vocab).status(),
                  absl::StatusCode::kUnimplemented, text);
  };
  refused({{"model", model}, {"normalizer", {{"type", "NFKC"}}}}, "NFKC");
  refused({{"model", model}, {"pre_tokenizer", {{"type", "ByteLevel"}}}}, "ByteLevel");
  refused({{"model", {{"type", "Unigram"}}}}, "Unigram");
}

// --- Phi-3's own tokenizer, which is not part of this repository ---

class PublishedTokenizerTest : public TokenizerTest {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kPublishedTokenizer)) {
      GTEST_SKIP() << "Phi-3's tokenizer is not at " << kPublishedTokenizer;
    }
    auto loaded = Tokenizer::Load(kPublishedTokenizer, 32064);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = *loaded;
  }
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(PublishedTokenizerTest, ReproducesTheReferenceLines) {
  const std::string separator = "\n__ggml_vocab_test__\n";
  const std::string inputs = ReadFile(kPublishedTokenizer + "/reference.inp");
  std::istringstream outputs(ReadFile(kPublishedTokenizer + "/reference.out"));
  int lines = 0;
  size_t start = 0;
  for (std::string line; std::getline(outputs, line); ++lines) {
    const size_t end = std::min(inputs.find(separator, start), inputs.size());
    const std::string text = inputs.substr(start, end - start);
    start = end + separator.size();
    std::istringstream numbers(line);
    std::vector<int32_t> expected;
    for (int32_t id; numbers >> id;) expected.push_back(id);
    EXPECT_EQ(tokenizer_->Encode(text), expected) << testing::PrintToString(text);
    EXPECT_EQ(tokenizer_->Decode(expected, true), text);
  }
  EXPECT_EQ(lines, 46);
  EXPECT_GE(start, inputs.size());
}

TEST_F(PublishedTokenizerTest, SegmentsAfterSpecialTokensAreEncodedAsOne) {
  const int32_t user = *tokenizer_->FindSpecial("<|user|>");
  EXPECT_THAT(tokenizer_->EncodeParts({{user, ""}, {-1, "\nHello"}}),
              ElementsAre(32010, 29871, 13, 10994));
  EXPECT_TRUE(tokenizer_->adds_bos());
  EXPECT_EQ(tokenizer_->eos_id(), 32000);
  EXPECT_TRUE(tokenizer_->IsMapped(32044));
  EXPECT_FALSE(tokenizer_->IsMapped(32045));
}

// The time itself is measured in bench/; here only that it is nearly linear, so that a megabyte of
// anything cannot hold up a server.
TEST_F(PublishedTokenizerTest, LongRunsOfOneCharacterTakeNearlyLinearTime) {
  const auto milliseconds = [this](const std::string& text) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_FALSE(tokenizer_->Encode(text).empty());
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    return time.count();
  };
  for (const char c : {'A', ' ', '\n'}) {
    // A quadratic algorithm would take minutes for this; the bound leaves room for sanitizers.
    EXPECT_LT(milliseconds(std::string(1 << 20, c)), 20'000) << testing::PrintToString(c);
  }
}

}  // namespace
}  // namespace tuppence
