// How long files stay, and what an Idempotency-Key is to /v1/files and /v1/batches: a retry makes
// nothing twice.
#include <sqlite3.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "service/file_store.h"
#include "tests/service/files_harness.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;
using Json = nlohmann::json;

constexpr int64_t kDay = 24 * 3600;

std::string Field(const std::string& name, const std::string& value) {
  return absl::StrCat("--b\r\nContent-Disposition: form-data; name=\"", name, "\"\r\n\r\n", value,
                      "\r\n");
}

std::string FormThatEnds(const std::string& anchor, const std::string& seconds) {
  return absl::StrCat(Field("expires_after[anchor]", anchor),
                      Field("expires_after[seconds]", seconds), Form(Lines(1)));
}

class KeptFilesTest : public FilesTest {
 protected:
  HttpAnswer UploadUnder(const std::string& form, const std::string& key) {
    return Call("POST", "/v1/files", form,
                {{"Content-Type", "multipart/form-data; boundary=b"}, {"Idempotency-Key", key}});
  }
  HttpAnswer MakeUnder(const Json& body, const std::string& key) {
    return Call("POST", "/v1/batches", body.dump(), {{"Idempotency-Key", key}});
  }
  static Json BodyOf(const std::string& file) {
    return {{"input_file_id", file}, {"endpoint", "/v1/completions"}, {"completion_window", "24h"}};
  }
  void ExpectGone(const std::string& file) {
    WaitFor([this, &file] { return Call("GET", "/v1/files/" + file).status == 404; });
    EXPECT_EQ(Contents().count(file), 0u);
  }
  static void WaitFor(const std::function<bool()>& condition) { tuppence::WaitFor(condition); }
};

TEST_F(KeptFilesTest, AFileStaysAsLongAsItsCallerAsksAndNoLongerThanTheOperatorSays) {
  options_.files_keep_seconds = 2 * kDay;
  Serve();
  const auto seconds_of = [](const Json& file) {
    return file["expires_at"].get<int64_t>() - file["created_at"].get<int64_t>();
  };
  EXPECT_EQ(seconds_of(PostForm(Form(Lines(1))).json()), 2 * kDay);
  EXPECT_EQ(seconds_of(PostForm(FormThatEnds("created_at", "3600")).json()), 3600);
  const Json longer = PostForm(FormThatEnds("created_at", "2592000")).json();
  EXPECT_EQ(seconds_of(longer), 2 * kDay);
  EXPECT_EQ(Call("GET", "/v1/files/" + longer["id"].get<std::string>()).json(), longer);
  for (const auto& [anchor, seconds] : {std::pair{"created_at", "3599"},
                                        {"created_at", "2592001"},
                                        {"created_at", "soon"},
                                        {"created_at", ""},
                                        {"last_active_at", "3600"}}) {
    const HttpAnswer refused = PostForm(FormThatEnds(anchor, seconds));
    EXPECT_EQ(refused.status, 400) << anchor << seconds;
    EXPECT_EQ(refused.error()["param"], "expires_after");
  }
  EXPECT_THAT(Contents(), SizeIs(3));
  options_.files_keep_seconds = 0;
  Serve();
  EXPECT_TRUE(PostForm(Form(Lines(1))).json()["expires_at"].is_null());
}

TEST_F(KeptFilesTest, WhatHasHadItsTimeGoesUnlessABatchAtWorkReadsIt) {
  options_.files_keep_seconds = 1;
  Serve();
  service_->executor.held = true;
  const std::string read = Upload(Lines(2));
  const std::string batch = Create(read).json()["id"];
  const std::string unread = Upload(Lines(1));
  ExpectGone(unread);
  EXPECT_EQ(Call("GET", "/v1/files/" + read).status, 200) << "until the batch has ended";
  service_->executor.held = false;
  const Json ended = WaitForStatus(batch, "completed");
  ExpectGone(read);
  ExpectGone(ended["output_file_id"]);
  EXPECT_EQ(service_->files->bytes(), 0) << "their room is there again";
  EXPECT_EQ(Batch(batch)["status"], "completed");
}

TEST_F(KeptFilesTest, ABatchsResultsStayAsLongAsItAsks) {
  options_.files_keep_seconds = 30 * kDay;
  Serve();
  const std::string file = Upload(Lines(1));
  const auto after = [](const Json& anchor, const Json& seconds) {
    return Json{{"output_expires_after", {{"anchor", anchor}, {"seconds", seconds}}}};
  };
  const Json made = Create(file, after("created_at", 7200)).json();
  const std::string id = made["id"];
  const std::string output = WaitForStatus(id, "completed")["output_file_id"];
  const Json result = Call("GET", "/v1/files/" + output).json();
  EXPECT_EQ(result["expires_at"].get<int64_t>() - result["created_at"].get<int64_t>(), 7200);
  for (const Json& wrong : {after("created_at", 60), after("created_at", kDay * 31),
                            after("now", 7200), Json{{"output_expires_after", 7200}}}) {
    const HttpAnswer refused = Create(file, wrong);
    EXPECT_EQ(refused.status, 400) << wrong;
    EXPECT_EQ(refused.error()["param"], "output_expires_after");
  }
  EXPECT_EQ(Create(file, after("created_at", "7200")).error()["param"],
            "output_expires_after.seconds");
}

TEST_F(KeptFilesTest, ARetriedUploadIsTheFileThatIsThere) {
  Serve();
  const HttpAnswer first = UploadUnder(Form(Lines(2)), "k");
  ASSERT_EQ(first.status, 200) << first.body;
  EXPECT_EQ(first.headers.count("idempotent-replayed"), 0u);
  const HttpAnswer again = UploadUnder(Form(Lines(2)), "k");
  EXPECT_EQ(again.json(), first.json());
  EXPECT_EQ(again.headers.at("idempotent-replayed"), "true");
  const std::string id = first.json()["id"];
  EXPECT_THAT(Contents(), UnorderedElementsAre(id));
  EXPECT_EQ(service_->files->bytes(), static_cast<int64_t>(Lines(2).size()));
  for (const std::string& form :
       {Form(Lines(3)), Form(Lines(2), "batch", "other.jsonl"),
        absl::StrCat(Field("expires_after[anchor]", "created_at"),
                     Field("expires_after[seconds]", "3600"), Form(Lines(2)))}) {
    const HttpAnswer other = UploadUnder(form, "k");
    EXPECT_EQ(other.status, 409);
    EXPECT_EQ(other.error()["code"], "idempotency_key_reused");
  }
  EXPECT_NE(UploadUnder(Form(Lines(2)), "j").json()["id"], id) << "another key, another file";
  tenant_ = "crawl";
  EXPECT_EQ(UploadUnder(Form(Lines(3)), "k").status, 200) << "each tenant's its own";
  tenant_ = "shop";
  Serve();
  EXPECT_EQ(UploadUnder(Form(Lines(2)), "k").json()["id"], id) << "after a restart too";
  EXPECT_EQ(Call("DELETE", "/v1/files/" + id).status, 200);
  EXPECT_NE(UploadUnder(Form(Lines(2)), "k").json()["id"], id)
      << "a deleted one leaves its key free";
}

TEST_F(KeptFilesTest, ARetriedBatchIsTheBatchThatIsThere) {
  Serve();
  service_->executor.held = true;
  const std::string file = Upload(Lines(2));
  const HttpAnswer first = MakeUnder(BodyOf(file), "k");
  ASSERT_EQ(first.status, 200) << first.body;
  const std::string id = first.json()["id"];
  const HttpAnswer again = MakeUnder(BodyOf(file), "k");
  EXPECT_EQ(again.status, 200);
  EXPECT_EQ(again.json()["id"], id);
  EXPECT_EQ(again.headers.at("idempotent-replayed"), "true");
  service_->executor.held = false;
  WaitForStatus(id, "completed");
  EXPECT_EQ(Call("DELETE", "/v1/files/" + file).status, 200);
  Serve();
  const HttpAnswer late = MakeUnder(BodyOf(file), "k");
  EXPECT_EQ(late.json()["id"], id) << "after a restart, and its input is gone";
  EXPECT_EQ(late.json()["status"], "completed");
  Json other = BodyOf(file);
  other["endpoint"] = "/v1/chat/completions";
  EXPECT_EQ(MakeUnder(other, "k").status, 409);
  EXPECT_EQ(MakeUnder(BodyOf(file), std::string(129, 'k')).status, 400);
  EXPECT_THAT(Call("GET", "/v1/batches").json()["data"], SizeIs(1));
  tenant_ = "crawl";
  EXPECT_EQ(MakeUnder(BodyOf(file), "k").error()["param"], "input_file_id")
      << "another tenant's key";
}

// As version 1 wrote it.
constexpr char kListOfVersion1[] = R"sql(
CREATE TABLE files (sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  tenant TEXT NOT NULL, purpose TEXT NOT NULL, filename TEXT NOT NULL, bytes INTEGER NOT NULL,
  lines INTEGER NOT NULL, created_unix_seconds INTEGER NOT NULL) STRICT;
CREATE INDEX files_by_tenant ON files (tenant, sequence);
CREATE TABLE batches (sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  tenant TEXT NOT NULL, active INTEGER NOT NULL, record TEXT NOT NULL) STRICT;
CREATE INDEX batches_by_tenant ON batches (tenant, sequence);
CREATE INDEX batches_active ON batches (sequence) WHERE active = 1;
INSERT INTO files VALUES (1, 'file-old', 'shop', 'batch', 'in.jsonl', 5, 1, 1700000000);
INSERT INTO batches VALUES (1, 'batch_0123', 'shop', 1, '{"id": "batch_0123", "tenant": "shop",
  "endpoint": "/v1/completions", "input_file_id": "file-none", "output_file_id": "file-o",
  "error_file_id": "file-e", "status": 0, "created_at": 1700000000, "expires_at": 4700000000,
  "reached_at": [1700000000, 0, 0, 0, 0, 0, 0, 0], "lines": 1, "output_lines": 0,
  "error_lines": 0, "failure": "", "reference_id": "", "metadata": null, "sums": {"answered": 0,
  "refused": 0, "prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0,
  "cost_nanousd": 0, "priced": 0, "reference_nanousd": 0, "referenced": 0}}');
PRAGMA user_version = 1;
)sql";

TEST_F(KeptFilesTest, AnOlderListIsGoneOnWithAndItsFilesStay) {
  sqlite3* list = nullptr;
  ASSERT_EQ(sqlite3_open((folder_ + "/files.db").c_str(), &list), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(list, kListOfVersion1, nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(list);
  std::ofstream(folder_ + "/file-old") << "{}\n{}";
  options_.files_keep_seconds = 1;
  Serve();
  const Json old = Call("GET", "/v1/files/file-old").json();
  EXPECT_EQ(old["bytes"], 5);
  EXPECT_TRUE(old["expires_at"].is_null()) << "its caller was told of no end";
  const Json failed = WaitForStatus("batch_0123", "failed");
  EXPECT_THAT(failed["errors"]["data"][0]["message"].get<std::string>(),
              HasSubstr("input file is not there"));
  ExpectGone(Upload(Lines(1)));
  EXPECT_EQ(Call("GET", "/v1/files/file-old").status, 200);
}

}  // namespace
}  // namespace tuppence
