// The safetensors reader on honest, cut, altered and hostile files: every refusal names the file
// and the reason, and nothing crashes.
#include "model/safetensors.h"

#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint.h"
#include "tests/support/tiny_checkpoint.h"

namespace tuppence {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

// Two tensors: a [2, 3] bf16 at 0..12, b [2] f32 at 12..20.
json HonestHeader() {
  return {{"a", {{"dtype", "BF16"}, {"shape", {2, 3}}, {"data_offsets", {0, 12}}}},
          {"b", {{"dtype", "F32"}, {"shape", {2}}, {"data_offsets", {12, 20}}}}};
}
const char kData[] = "abcdefghijklmnopqrst";  // 20 bytes

class SafetensorsTest : public ::testing::Test {
 protected:
  // The message for a file of these bytes; it must name the file.
  std::string ErrorOf(const std::string& bytes) {
    WriteFile(path_, bytes);
    const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path_);
    EXPECT_FALSE(file.ok());
    if (file.ok()) return "";
    const std::string message(file.status().message());
    EXPECT_THAT(message, HasSubstr(path_));
    EXPECT_THAT(message, HasSubstr("download"));  // the way out
    return message;
  }
  std::string ErrorOf(const json& header) { return ErrorOf(SafetensorsBytes(header, kData)); }
  // The message when tensor `a` or `b` has this field.
  std::string ErrorWith(const std::string& tensor, const std::string& field, const json& value) {
    json header = HonestHeader();
    header[tensor][field] = value;
    return ErrorOf(header);
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.File("model.safetensors");
};

TEST_F(SafetensorsTest, ReadsRowsOfAnHonestFile) {
  WriteFile(path_, SafetensorsBytes(HonestHeader(), kData));
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 2u);
  EXPECT_EQ(file->tensors()[0].name, "a");
  EXPECT_EQ(file->tensors()[0].type, DType::kBf16);
  EXPECT_THAT(file->tensors()[0].shape, ::testing::ElementsAre(2, 3));
  EXPECT_EQ(file->tensors()[1].file, path_);
  std::string bytes(6, ' ');
  ASSERT_TRUE(file->ReadRows(0, 1, 1, bytes.data()).ok());
  EXPECT_EQ(bytes, "ghijkl");
  bytes.resize(8);
  ASSERT_TRUE(file->ReadRows(1, 0, 2, bytes.data()).ok());
  EXPECT_EQ(bytes, "mnopqrst");
}

TEST_F(SafetensorsTest, AcceptsMetadataBlanksAfterTheHeaderAndEmptyTensors) {
  json header = HonestHeader();
  header["__metadata__"] = {{"format", "pt"}};
  header["none"] = {{"dtype", "F32"}, {"shape", {0, 5}}, {"data_offsets", {12, 12}}};
  WriteFile(path_, SafetensorsBytes(header.dump() + "     ", kData));
  EXPECT_TRUE(SafetensorsFile::Open(path_).ok()) << SafetensorsFile::Open(path_).status();
}

TEST_F(SafetensorsTest, AFileCutOffAnywhereIsRefused) {
  const std::string whole = SafetensorsBytes(HonestHeader(), kData);
  const size_t header_end = whole.size() - 20;
  EXPECT_THAT(ErrorOf(std::string()), HasSubstr("it has 0 bytes, fewer than the 8"));
  EXPECT_THAT(ErrorOf(whole.substr(0, 7)), HasSubstr("it has 7 bytes, fewer than the 8"));
  EXPECT_THAT(ErrorOf(whole.substr(0, 8)), HasSubstr("but only 0 follow; it was cut off"));
  EXPECT_THAT(ErrorOf(whole.substr(0, header_end - 1)), HasSubstr("follow; it was cut off"));
  EXPECT_THAT(ErrorOf(whole.substr(0, header_end)),
              HasSubstr("tensor \"a\": its data ends at 12, but the file holds 0 bytes of data"));
  EXPECT_THAT(ErrorOf(whole.substr(0, header_end + 12)),
              HasSubstr("tensor \"b\": its data ends at 20, but the file holds 12 bytes of data"));
  EXPECT_THAT(ErrorOf(whole.substr(0, whole.size() - 1)),
              HasSubstr("tensor \"b\": its data ends at 20, but the file holds 19"));
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) ErrorOf(whole.substr(0, bytes));
}

TEST_F(SafetensorsTest, BytesThatNoTensorOwnsAreRefused) {
  EXPECT_THAT(ErrorOf(SafetensorsBytes(HonestHeader(), std::string(kData) + "PK")),
              HasSubstr("the tensors end at offset 20 of the data, but 2 more bytes follow"));
}

TEST_F(SafetensorsTest, AHostileHeaderLengthIsRefusedBeforeMemoryIsTaken) {
  const std::string rest = HonestHeader().dump() + kData;
  const auto with_length = [&rest](uint64_t length) {
    return std::string(reinterpret_cast<const char*>(&length), 8) + rest;
  };
  EXPECT_THAT(ErrorOf(with_length(uint64_t{1} << 63)),
              HasSubstr("the header's length is 9223372036854775808 bytes; allowed are 100000000"));
  EXPECT_THAT(ErrorOf(with_length(~uint64_t{0})), HasSubstr("allowed are 100000000"));
  EXPECT_THAT(ErrorOf(with_length(100'000'001)), HasSubstr("allowed are 100000000"));
  EXPECT_THAT(ErrorOf(with_length(100'000'000)), HasSubstr("it was cut off"));
  EXPECT_THAT(ErrorOf(with_length(0)), HasSubstr("the header is not a JSON object"));
}

TEST_F(SafetensorsTest, OffsetsMustTileTheData) {
  EXPECT_THAT(ErrorWith("a", "data_offsets", {-12, 0}),
              HasSubstr("tensor \"a\": data_offsets is [-12,0]"));
  EXPECT_THAT(ErrorWith("a", "data_offsets", {12, 0}), HasSubstr("two rising numbers"));
  EXPECT_THAT(ErrorWith("a", "data_offsets", {0}), HasSubstr("tensor \"a\": data_offsets is [0]"));
  EXPECT_THAT(ErrorWith("a", "data_offsets", {0, 12.0}), HasSubstr("data_offsets is [0,12.0]"));
  EXPECT_THAT(ErrorWith("a", "data_offsets", {0, ~uint64_t{0}}), HasSubstr("data_offsets is"));
  EXPECT_THAT(ErrorWith("a", "data_offsets", nullptr), HasSubstr("data_offsets is null"));
  EXPECT_THAT(ErrorWith("b", "data_offsets", {8, 16}),
              HasSubstr("tensor \"b\": its data starts at offset 8, inside the tensor before it, "
                        "which ends at 12"));
  EXPECT_THAT(ErrorWith("b", "data_offsets", {0, 8}), HasSubstr("inside the tensor before it"));
  EXPECT_THAT(ErrorWith("b", "data_offsets", {16, 24}),
              HasSubstr("tensor \"b\": its data starts at offset 16, which leaves a gap"));
  json header = HonestHeader();
  header.erase("a");
  EXPECT_THAT(ErrorOf(header), HasSubstr("leaves a gap"));
}

TEST_F(SafetensorsTest, ShapeTimesTypeMustBeTheBytes) {
  EXPECT_THAT(ErrorWith("a", "shape", {2, 4}),
              HasSubstr("tensor \"a\": its shape [2, 4] of bf16 takes 16 bytes, but its "
                        "data_offsets span 12"));
  EXPECT_THAT(ErrorWith("a", "dtype", "F32"), HasSubstr("takes 24 bytes"));
  EXPECT_THAT(ErrorWith("a", "shape", {int64_t{1} << 62, 4}), HasSubstr("overflows 63 bits"));
  EXPECT_THAT(ErrorWith("a", "shape", {int64_t{1} << 32, int64_t{1} << 32, 6}),
              HasSubstr("overflows 63 bits"));
  EXPECT_THAT(ErrorWith("a", "shape", {-2, -3}), HasSubstr("tensor \"a\": shape is [-2,-3]"));
  EXPECT_THAT(ErrorWith("a", "shape", {~uint64_t{0}}), HasSubstr("shape is"));
  EXPECT_THAT(ErrorWith("a", "shape", 6), HasSubstr("shape is 6"));
  EXPECT_THAT(ErrorWith("a", "shape", {2.0, 3}), HasSubstr("shape is"));
  EXPECT_THAT(ErrorWith("a", "shape", std::vector<int>(9, 1)), HasSubstr("at most 8 numbers"));
}

TEST_F(SafetensorsTest, OnlyTheTypesOfPhi3CheckpointsAreRead) {
  EXPECT_THAT(ErrorWith("a", "dtype", "F8_E4M3"),
              HasSubstr("tensor \"a\": dtype is F8_E4M3; supported are F32, BF16 and F16"));
  EXPECT_THAT(ErrorWith("a", "dtype", "I32"), HasSubstr("supported are F32, BF16 and F16"));
  EXPECT_THAT(ErrorWith("a", "dtype", "XYZ"), HasSubstr("dtype is \"XYZ\", unknown"));
  EXPECT_THAT(ErrorWith("a", "dtype", 7), HasSubstr("dtype is 7"));
}

TEST_F(SafetensorsTest, EntriesHaveExactlyTheirThreeFields) {
  json header = HonestHeader();
  header["a"].erase("shape");
  EXPECT_THAT(ErrorOf(header), HasSubstr("expected are dtype, shape and data_offsets"));
  header = HonestHeader();
  header["a"]["more"] = 1;
  EXPECT_THAT(ErrorOf(header), HasSubstr("expected are dtype, shape and data_offsets"));
  header["a"] = 5;
  EXPECT_THAT(ErrorOf(header), HasSubstr("tensor \"a\": its entry is 5"));
}

TEST_F(SafetensorsTest, MetadataHoldsStringsOnly) {
  json header = HonestHeader();
  header["__metadata__"] = {{"format", {{"nested", 1}}}};
  EXPECT_THAT(ErrorOf(header), HasSubstr("__metadata__ is"));
  header["__metadata__"] = "pt";
  EXPECT_THAT(ErrorOf(header), HasSubstr("__metadata__ is \"pt\""));
}

TEST_F(SafetensorsTest, DuplicateKeysAreRefused) {
  const std::string a = R"("a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]})";
  EXPECT_THAT(ErrorOf(SafetensorsBytes("{" + a + "," + a + "}", kData)),
              HasSubstr("the header: JSON key \"a\" stands twice in one object"));
  EXPECT_THAT(
      ErrorOf(SafetensorsBytes(
          std::string(R"({"a":{"dtype":"BF16","dtype":"F32","shape":[3],"data_offsets":[0,12]}})"),
          kData)),
      HasSubstr("JSON key \"dtype\" stands twice"));
}

TEST_F(SafetensorsTest, DeepOrBrokenJsonIsRefused) {
  for (const int depth : {40, 1000000}) {
    const std::string deep = "{\"a\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
    EXPECT_THAT(ErrorOf(SafetensorsBytes(deep, kData)), HasSubstr("nested deeper than 32 levels"));
  }
  EXPECT_THAT(ErrorOf(SafetensorsBytes(std::string("{\"a\""), kData)), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(SafetensorsBytes(std::string(" {}"), "")),
              HasSubstr("the header is not a JSON object"));
  EXPECT_THAT(ErrorOf(SafetensorsBytes(std::string("[]"), "")),
              HasSubstr("the header is not a JSON object"));
}

TEST_F(SafetensorsTest, AFileThatShrinksAfterOpeningIsAnErrorAndNoSignal) {
  const std::string whole = SafetensorsBytes(HonestHeader(), kData);
  WriteFile(path_, whole);
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok());
  std::filesystem::resize_file(path_, whole.size() - 10);
  char bytes[16];
  EXPECT_TRUE(file->ReadRows(0, 0, 1, bytes).ok());
  const absl::Status status = file->ReadRows(1, 0, 2, bytes);
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(path_), HasSubstr("tensor \"b\""), HasSubstr("has become shorter")));
}

TEST_F(SafetensorsTest, WhatIsNoRegularFileIsRefused) {
  const auto missing = SafetensorsFile::Open(path_);
  EXPECT_TRUE(absl::IsNotFound(missing.status())) << missing.status();
  const auto directory = SafetensorsFile::Open(folder_.path());
  EXPECT_THAT(std::string(directory.status().message()), HasSubstr("is not a regular file"));
}

// One byte of the length or the header is replaced at a time: the reader answers, whatever it is,
// and never with tensors that reach outside the file.
TEST_F(SafetensorsTest, NoSingleByteOfTheHeaderCanCrashTheReader) {
  const std::string whole = SafetensorsBytes(HonestHeader(), kData);
  std::mt19937 random(20240423);
  int accepted = 0;
  WriteFile(path_, whole);
  std::fstream written(path_, std::ios::binary | std::ios::in | std::ios::out);  // kept for speed
  const auto check = [&](const std::string& bytes) {
    written.seekp(0).write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush();
    const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path_);
    if (!file.ok()) return;
    ++accepted;
    for (size_t i = 0; i < file->tensors().size(); ++i) {
      const std::vector<int64_t>& shape = file->tensors()[i].shape;
      if (shape.empty() || shape[0] == 0) continue;
      char out[64];
      EXPECT_TRUE(file->ReadRows(i, 0, shape[0], out).ok());
    }
  };
  for (size_t at = 0; at < whole.size() - 20; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
      check(bytes);
    }
  }
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = whole;
    for (uint32_t n = 1 + random() % 3; n > 0; --n) {
      bytes[random() % (whole.size() - 20)] = static_cast<char>(random());
    }
    check(bytes);
  }
  EXPECT_GT(accepted, 0);  // a changed letter of a name is another honest file
}

// ------------------------------------------------------------------ sharded folders

class ShardsTest : public ::testing::Test {
 protected:
  ShardsTest() { WriteTinyCheckpoint(folder_.path(), TinyConfigJson(), /*shards=*/3); }

  json Index() const { return json::parse(ReadFile(index_)); }
  std::string Error() const {
    const auto source = OpenCheckpoint(folder_.path());
    EXPECT_FALSE(source.ok());
    return source.ok() ? "" : std::string(source.status().message());
  }
  std::string ErrorWithIndex(const json& index) const {
    WriteFile(index_, index.dump());
    return Error();
  }

  TemporaryFolder folder_;
  std::string index_ = folder_.File("model.safetensors.index.json");
  std::string shard_ = folder_.File("model-00002-of-00003.safetensors");
};

TEST_F(ShardsTest, AllTensorsOfAllShardsAreThere) {
  const auto source = OpenCheckpoint(folder_.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->tensors().size(), 15u);
  EXPECT_EQ((*source)->place(), folder_.path());
}

TEST_F(ShardsTest, LinksAreFollowedAsInADownloadCache) {
  const std::string blobs = folder_.File("blobs");
  std::filesystem::create_directory(blobs);
  std::filesystem::rename(shard_, blobs + "/0123abcd");
  std::filesystem::create_symlink("blobs/0123abcd", shard_);
  EXPECT_TRUE(OpenCheckpoint(folder_.path()).ok()) << OpenCheckpoint(folder_.path()).status();
}

TEST_F(ShardsTest, ShardNamesCannotLeaveTheFolder) {
  for (const char* name : {"../secret", "/etc/passwd", "a/b.safetensors", "..", ".", "", "a\\b"}) {
    json index = Index();
    index["weight_map"]["model.norm.weight"] = name;
    EXPECT_THAT(ErrorWithIndex(index),
                AllOf(HasSubstr(index_), HasSubstr("tensor \"model.norm.weight\""),
                      HasSubstr("allowed is the name of a file in this folder")));
  }
  json index = Index();
  index["weight_map"]["model.norm.weight"] = std::string("a\0b", 3);
  EXPECT_THAT(ErrorWithIndex(index), HasSubstr("allowed is the name of a file"));
  index["weight_map"]["model.norm.weight"] = 5;
  EXPECT_THAT(ErrorWithIndex(index), HasSubstr("is said to be in file 5"));
}

TEST_F(ShardsTest, TheIndexAndTheShardsMustAgree) {
  json index = Index();
  index["weight_map"]["model.norm.weight"] = index["weight_map"]["model.embed_tokens.weight"];
  EXPECT_THAT(ErrorWithIndex(index), AllOf(HasSubstr("tensor \"model.norm.weight\" should be in"),
                                           HasSubstr("but is in")));
  index["weight_map"].erase("model.norm.weight");
  EXPECT_THAT(ErrorWithIndex(index),
              AllOf(HasSubstr("tensor \"model.norm.weight\" is not listed in"), HasSubstr(index_)));
}

TEST_F(ShardsTest, ATensorThatTheIndexPromisesMustExist) {
  json index = Index();
  index["weight_map"]["model.more.weight"] = "model-00002-of-00003.safetensors";
  EXPECT_THAT(ErrorWithIndex(index),
              AllOf(HasSubstr("tensor \"model.more.weight\" should be in"), HasSubstr("missing")));
}

TEST_F(ShardsTest, ATensorInTwoShardsIsRefused) {
  std::filesystem::copy_file(shard_, folder_.File("copy.safetensors"));
  json index = Index();
  index["weight_map"]["model.norm.weight"] = "copy.safetensors";
  EXPECT_THAT(ErrorWithIndex(index), HasSubstr("is also in"));
}

TEST_F(ShardsTest, AMissingOrCutShardIsNamed) {
  std::filesystem::resize_file(shard_, 5);
  EXPECT_THAT(Error(), AllOf(HasSubstr(shard_), HasSubstr("it has 5 bytes")));
  std::filesystem::remove(shard_);
  EXPECT_THAT(Error(), AllOf(HasSubstr(shard_), HasSubstr("No such file")));
}

TEST_F(ShardsTest, AnAlteredIndexIsNamed) {
  WriteFile(index_, R"({"weight_map": {"a": "x", "a": "y"}})");
  EXPECT_THAT(Error(), AllOf(HasSubstr(index_), HasSubstr("stands twice")));
  WriteFile(index_, R"({"weight_map": {}})");
  EXPECT_THAT(Error(), AllOf(HasSubstr(index_), HasSubstr("weight_map is {}")));
  WriteFile(index_, "[]");
  EXPECT_THAT(Error(), AllOf(HasSubstr(index_), HasSubstr("weight_map is null")));
  WriteFile(index_, "{");
  EXPECT_THAT(Error(), AllOf(HasSubstr(index_), HasSubstr("not valid JSON")));
}

TEST_F(ShardsTest, AFolderWithoutSafetensorsSaysWhatItShouldHold) {
  TemporaryFolder empty;
  const auto source = OpenCheckpoint(empty.path());
  EXPECT_TRUE(absl::IsNotFound(source.status()));
  EXPECT_THAT(std::string(source.status().message()),
              AllOf(HasSubstr(empty.path()), HasSubstr("model.safetensors nor"),
                    HasSubstr("GGUF files are not read")));
}

}  // namespace
}  // namespace tuppence
