// SHA256SUMS in a checkpoint's folder: an altered file is refused by its name, whatever it holds.
#include "model/sha256_sums.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint.h"
#include "tests/support/tiny_checkpoint.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// FIPS 180-2, appendix B.1: the digest of "abc".
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

class Sha256SumsTest : public ::testing::Test {
 protected:
  Sha256SumsTest() { WriteFile(folder_.File("weights"), "abc"); }

  absl::StatusOr<int> Check(const std::string& sums) {
    WriteFile(folder_.File("SHA256SUMS"), sums);
    return CheckSha256Sums(folder_.path());
  }
  std::string ErrorOf(const std::string& sums) {
    const absl::StatusOr<int> checked = Check(sums);
    EXPECT_FALSE(checked.ok());
    return std::string(checked.status().message());
  }

  TemporaryFolder folder_;
};

TEST_F(Sha256SumsTest, AFolderWithoutTheFileIsTakenAsItIs) {
  EXPECT_EQ(CheckSha256Sums(folder_.path()).value(), 0);
}

TEST_F(Sha256SumsTest, FilesThatAgreeAreCounted) {
  EXPECT_EQ(Check(absl::StrCat(kAbc, "  weights\n")).value(), 1);
  EXPECT_EQ(
      Check(absl::StrCat("BA7816BF8F01", kAbc + 12, " *weights\r\n\n", kAbc, "  weights")).value(),
      2);
}

TEST_F(Sha256SumsTest, ALineForItselfIsPassedOver) {
  EXPECT_EQ(Check(absl::StrCat(kAbc, "  SHA256SUMS\n", kAbc, "  weights\n")).value(), 1);
}

TEST_F(Sha256SumsTest, AnAlteredFileIsNamedWithBothDigests) {
  WriteFile(folder_.File("weights"), "abd");
  const absl::StatusOr<int> checked = Check(absl::StrCat(kAbc, "  weights\n"));
  ASSERT_TRUE(absl::IsDataLoss(checked.status()));
  EXPECT_THAT(std::string(checked.status().message()),
              AllOf(HasSubstr(folder_.File("weights")), HasSubstr(kAbc),
                    HasSubstr("a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9"),
                    HasSubstr("download it again")));
}

TEST_F(Sha256SumsTest, AListedFileMustBeThere) {
  EXPECT_THAT(ErrorOf(absl::StrCat(kAbc, "  more\n")),
              AllOf(HasSubstr(folder_.File("more")), HasSubstr("SHA256SUMS lists it")));
}

TEST_F(Sha256SumsTest, LinesOfAnotherFormAndNamesOutsideTheFolderAreRefused) {
  for (const std::string& line :
       {std::string("weights"), std::string(kAbc), absl::StrCat(kAbc, "  "),
        absl::StrCat(kAbc, " weights"), absl::StrCat(std::string(kAbc).substr(1), "g  weights"),
        absl::StrCat(kAbc, "  ../weights"), absl::StrCat(kAbc, "  /etc/passwd"),
        absl::StrCat(kAbc, "  ..")}) {
    EXPECT_THAT(ErrorOf(absl::StrCat("\n", line)),
                AllOf(HasSubstr("SHA256SUMS: line 2 is \""), HasSubstr("64 hex digits")))
        << line;
  }
}

TEST_F(Sha256SumsTest, ACheckpointWithAWrongDigestIsNotOpened) {
  WriteTinyCheckpoint(folder_.path(), TinyConfigJson());
  ASSERT_TRUE(OpenModel(folder_.path()).ok());
  WriteFile(folder_.File("SHA256SUMS"), absl::StrCat(kAbc, "  config.json\n"));
  EXPECT_TRUE(absl::IsDataLoss(OpenModel(folder_.path()).status()));
  WriteFile(folder_.File("SHA256SUMS"), absl::StrCat(kAbc, "  weights\n"));
  EXPECT_EQ(OpenModel(folder_.path())->files_compared, 1);
}

}  // namespace
}  // namespace tuppence
