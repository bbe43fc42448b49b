// Forms as they come over HTTP: the same parts however the bytes are cut, and a refusal for what is
// no form.
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "service/http_multipart.h"

namespace tuppence {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Gatherer final : public MultipartSink {
 public:
  absl::Status BeginPart(const MultipartPart& part) override {
    parts.push_back(absl::StrCat(part.name, "|", part.is_file ? part.filename : "-", "|"));
    return absl::OkStatus();
  }
  absl::Status PartBytes(std::string_view bytes) override {
    parts.back() += bytes;
    return absl::OkStatus();
  }
  absl::Status EndPart() override {
    parts.back() += "|";
    return absl::OkStatus();
  }
  std::vector<std::string> parts;
};

std::string Part(const std::string& disposition, const std::string& body) {
  return absl::StrCat("--XyZ\r\nContent-Disposition: ", disposition, "\r\n\r\n", body, "\r\n");
}

// What a body comes to, fed in pieces of so many bytes.
absl::StatusOr<std::vector<std::string>> Read(const std::string& body, size_t piece) {
  Gatherer gatherer;
  MultipartReader reader("XyZ", &gatherer);
  for (size_t at = 0; at < body.size(); at += piece) {
    const absl::Status fed = reader.Feed(std::string_view(body).substr(at, piece));
    if (!fed.ok()) return fed;
  }
  if (absl::Status whole = reader.Finish(); !whole.ok()) return whole;
  return gatherer.parts;
}

TEST(MultipartTest, ThePartsAreTheSameHoweverTheBytesAreCut) {
  const std::string tricky = "\r\n--Xy\r\n--XyA\r\r\n-\r\n--XY\r\n\n";
  const std::string body = absl::StrCat(
      "a preamble\r\n", Part("form-data; name=\"purpose\"", "batch"),
      Part("form-data; name=\"file\"; filename=\"a \\\"b\\\";c.jsonl\"", tricky),
      "--XyZ \t\r\ncontent-disposition:form-data; filename=x; name=plain\r\nContent-Type: a/b\r\n"
      "\r\n\r\n--XyZ--\r\nan epilogue --XyZ\r\n");
  for (size_t piece = 1; piece <= body.size(); ++piece) {
    const auto parts = Read(body, piece);
    ASSERT_TRUE(parts.ok()) << piece << " " << parts.status();
    ASSERT_THAT(*parts,
                ElementsAre("purpose|-|batch|", absl::StrCat("file|a \"b\";c.jsonl|", tricky, "|"),
                            "plain|x||"))
        << piece;
  }
}

TEST(MultipartTest, WhatIsNoFormSaysSo) {
  const std::string good = Part("form-data; name=\"a\"", "x");
  std::string many;
  for (int i = 0; i < 17; ++i) many += good;
  const std::pair<std::string, const char*> wrong[] = {
      {"", "before its last boundary"},
      {"{}", "before its last boundary"},
      {good, "before its last boundary"},
      {good + "--XyZ-", "before its last boundary"},
      {good + "--XyZx\r\n", "no line's end"},
      {Part("form-data", "x") + "--XyZ--", "has no name"},
      {Part("attachment; name=\"a\"", "x") + "--XyZ--", "not form-data"},
      {"--XyZ\r\n\r\nx\r\n--XyZ--", "has no name"},
      {Part("form-data; name=a\r\nContent-Transfer-Encoding: base64", "eA==") + "--XyZ--",
       "as they are"},
      {absl::StrCat("--XyZ\r\nX: ", std::string(5000, 'x'), "\r\n\r\n"), "more than 4096 bytes"},
      {absl::StrCat("--XyZ", std::string(5000, ' ')), "no line's end"},
      {many + "--XyZ--", "more than 16 parts"},
  };
  for (const auto& [body, words] : wrong) {
    for (const size_t piece : {size_t{1}, size_t{7}, size_t{1} << 16}) {
      const absl::Status status = Read(body, piece).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << body.substr(0, 80);
      EXPECT_THAT(std::string(status.message()), HasSubstr(words));
    }
  }
}

TEST(MultipartTest, TheBoundaryIsInTheType) {
  EXPECT_EQ(MultipartReader::BoundaryOf("multipart/form-data; boundary=abc").value(), "abc");
  EXPECT_EQ(MultipartReader::BoundaryOf("Multipart/Form-Data; charset=x; Boundary=\"a b\"").value(),
            "a b");
  for (const std::string& type :
       {std::string("application/json"), std::string("multipart/form-data"),
        std::string("multipart/form-data; boundary="), std::string("multipart/form-data; boundary"),
        absl::StrCat("multipart/form-data; boundary=", std::string(71, 'b'))}) {
    EXPECT_FALSE(MultipartReader::BoundaryOf(type).ok()) << type;
  }
}

}  // namespace
}  // namespace tuppence
