// /v1/files and /v1/batches: what is uploaded, answered and downloaded, and section F of our list
// of bad inputs. Kills and restarts of the whole service are in tests/end_to_end/files_test.py.
#include <sqlite3.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "service/file_store.h"
#include "tests/service/files_harness.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;
using Json = nlohmann::json;

TEST_F(FilesTest, AFileIsUploadedListedReadAndDeleted) {
  Serve();
  const std::string content = Lines(3);
  const HttpAnswer made = PostForm(Form(content, "batch", "../../etc/passwd"));
  ASSERT_EQ(made.status, 200) << made.body;
  const Json file = made.json();
  EXPECT_EQ(file["object"], "file");
  EXPECT_EQ(file["bytes"], content.size());
  EXPECT_EQ(file["filename"], "../../etc/passwd") << "a name, and no path";
  EXPECT_EQ(file["purpose"], "batch");
  const std::string id = file["id"];
  EXPECT_THAT(Contents(), UnorderedElementsAre(id));
  EXPECT_EQ(std::filesystem::status(folder_ + "/" + id).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  const std::string path = "/v1/files/" + id;
  EXPECT_EQ(Call("GET", path).json(), file);
  EXPECT_EQ(Call("GET", path + "/content").body, content);
  EXPECT_EQ(Call("GET", "/v1/files").json()["data"], Json::array({file}));
  EXPECT_THAT(Call("GET", "/v1/files?purpose=batch_output").json()["data"], IsEmpty());
  EXPECT_EQ(service_->files->bytes(), static_cast<int64_t>(content.size()));
  EXPECT_EQ(Call("DELETE", path).json()["deleted"], true);
  EXPECT_EQ(Call("DELETE", path).status, 404);
  EXPECT_EQ(Call("GET", path + "/content").status, 404);
  EXPECT_THAT(Contents(), IsEmpty());
  EXPECT_EQ(service_->files->bytes(), 0);
  service_->ExpectUnharmed();
}

TEST_F(FilesTest, F1F3UploadsThatAreNoBatchAreRefusedNamingTheLinesAndLeaveNothing) {
  Serve();
  const std::string good = Line(1);
  const std::pair<std::string, const char*> wrong[] = {
      {Form(""), "has no lines"},
      {Form("\r\n \n"), "has no lines"},
      {Form(Lines(50'001)), "more than 50000 lines"},
      {Form(good + "\n" + good), "line 2 has the custom_id of line 1"},
      {Form(good + "\n{\"url\": \"/v1/completions\"}"), "line 2 has no custom_id"},
      {Form(Line(1, {{"custom_id", std::string(10240, 'x')}})), "custom_id of 10240 bytes"},
      {Form(good, "fine-tune"), "purpose is not \"batch\""},
      {Form(good, ""), "purpose is not"},
      {Form(good, std::string(5000, 'p')), "purpose has more than 4096 bytes"},
      {"--b--\r\n", "file is missing"},
      {"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx\r\n--b--\r\n", "is no file"},
      {absl::StrCat(Form(good).substr(0, Form(good).size() - 6), "\r\n", Form(good)),
       "file came twice"},
      {Form(good).substr(0, 100), "last boundary"},
      {"{}", "last boundary"},
  };
  for (const auto& [form, words] : wrong) {
    const HttpAnswer answer = PostForm(form);
    EXPECT_EQ(answer.status, 400) << words << answer.body;
    EXPECT_THAT(answer.body, Not(HasSubstr(folder_))) << "no path of ours";
    EXPECT_THAT(answer.error()["message"].get<std::string>(), HasSubstr(words));
  }
  EXPECT_EQ(Call("POST", "/v1/files", Form(good)).status, 415);
  EXPECT_EQ(Call("POST", "/v1/files", Form(good), {{"Content-Type", "multipart/form-data"}}).status,
            400);
  EXPECT_THAT(Contents(), IsEmpty());
  EXPECT_EQ(service_->files->bytes(), 0);
  // Blank lines, CRLF, a byte order mark and no last line's end are as good as none.
  EXPECT_THAT(Upload(absl::StrCat("\xef\xbb\xbf", Line(1), "\r\n\r\n", Line(2))),
              HasSubstr("file-"));
  service_->ExpectUnharmed();
}

TEST_F(FilesTest, F1F5AnUploadTooLargeIsRefusedByItsLengthOrOnItsWay) {
  Serve();
  const int port = service_->http->port();
  const std::string head =
      "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nX-Tenant: shop\r\n"
      "Content-Type: multipart/form-data; boundary=b\r\n";
  {
    RawConnection connection(port);
    connection.Write(absl::StrCat(head, "Content-Length: ", kFileBytesMax + (1 << 20), "\r\n\r\n"));
    EXPECT_THAT(connection.ReadAll(), HasSubstr("HTTP/1.1 413"));
  }
  {
    RawConnection connection(port);
    connection.Write(absl::StrCat(head, "Transfer-Encoding: chunked\r\n\r\n", "ffffffff\r\n"));
    EXPECT_THAT(connection.ReadAll(), HasSubstr("HTTP/1.1 413"));
  }
  {
    RawConnection connection(port);
    connection.Write(absl::StrCat(head, "Content-Length: 100\r\n\r\n--b\r\n"));
    connection.Reset();
  }
  EXPECT_EQ(Call("POST", "/v1/batches", std::string(3 << 20, ' ')).status, 413)
      << "what is no upload is held to less";
  service_->ExpectUnharmed();
  for (int i = 0; i < 1000 && !Contents().empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_THAT(Contents(), IsEmpty());
  EXPECT_EQ(service_->files->bytes(), 0);
}

TEST_F(FilesTest, AllFilesTogetherHaveALimit) {
  options_.files_bytes_max = static_cast<int64_t>(Lines(10).size() + 100);
  Serve();
  const std::string first = Upload(Lines(10));
  const HttpAnswer second = PostForm(Form(Lines(10)));
  EXPECT_EQ(second.status, 429);
  EXPECT_EQ(second.error()["code"], "files_full");
  EXPECT_THAT(second.error()["message"].get<std::string>(), HasSubstr("--files-bytes-max"));
  EXPECT_EQ(second.headers.at("x-should-retry"), "false");
  EXPECT_EQ(Call("DELETE", "/v1/files/" + first).status, 200);
  Upload(Lines(10));
}

TEST_F(FilesTest, AFormOfAnotherSitesPageIsRefused) {
  Serve();
  const HttpAnswer answer =
      Call("POST", "/v1/files", Form(Lines(1)),
           {{"Content-Type", "multipart/form-data; boundary=b"}, {"Origin", "http://evil.test"}});
  EXPECT_EQ(answer.status, 403);
}

TEST_F(FilesTest, WithoutAFolderThereAreNoFiles) {
  options_.files_dir.clear();
  Serve();
  EXPECT_EQ(Call("GET", "/v1/files").status, 404);
  EXPECT_EQ(Call("GET", "/v1/batches").status, 404);
  EXPECT_THAT(PostForm(Form(Lines(1))).error()["message"].get<std::string>(),
              HasSubstr("--files-dir"));
  service_->ExpectUnharmed();
}

TEST_F(FilesTest, F9B2AnotherTenantsFilesAndBatchesAreNotThere) {
  Serve();
  const std::string file = Upload(Lines(2));
  const std::string batch = Create(file).json()["id"];
  WaitForStatus(batch, "completed");
  tenant_ = "crawl";
  for (const std::string& path : {"/v1/files/" + file, "/v1/files/" + file + "/content",
                                  "/v1/batches/" + batch, std::string("/v1/files/file-none")}) {
    EXPECT_EQ(Call("GET", path).status, 404) << path;
  }
  EXPECT_EQ(Call("DELETE", "/v1/files/" + file).status, 404);
  EXPECT_EQ(Call("POST", "/v1/batches/" + batch + "/cancel").status, 404);
  EXPECT_EQ(Create(file).status, 400);
  EXPECT_THAT(Call("GET", "/v1/files").json()["data"], IsEmpty());
  EXPECT_THAT(Call("GET", "/v1/batches").json()["data"], IsEmpty());
}

TEST_F(FilesTest, F2F4ABatchIsAnsweredAndItsBadLinesAreInTheErrorFile) {
  Serve();
  const std::string content = absl::StrCat(
      Line(0), "\n", Line(1), "\n{\"custom_id\": \n",
      Line(3, {{"url", "/v1/chat/completions"}, {"body", {{"prompt", nullptr}}}}), "\n",
      Line(4, {{"body", {{"model", "other"}}}}), "\n", Line(5, {{"body", {{"stream", true}}}}),
      "\n", Line(6, {{"body", {{"max_tokens", 1'000'000}}}}), "\n",
      Line(7, {{"custom_id", "long"}, {"body", {{"prompt", std::string(100'000, 'x')}}}}), "\n",
      Line(8, {{"expected", "x"}}));
  const std::string file = Upload(content);
  const HttpAnswer made = Create(file, {{"metadata", {{"night", "7"}}}});
  ASSERT_EQ(made.status, 200) << made.body;
  EXPECT_EQ(made.json()["object"], "batch");
  EXPECT_EQ(made.json()["request_counts"]["total"], 9);
  const Json batch = WaitForStatus(made.json()["id"], "completed");
  EXPECT_EQ(batch["request_counts"], Json({{"total", 9}, {"completed", 3}, {"failed", 6}}));
  EXPECT_EQ(batch["metadata"]["night"], "7");
  EXPECT_EQ(batch["usage"]["output_tokens"], 12);
  const auto answers = Results(batch["output_file_id"]);
  ASSERT_EQ(answers.size(), 3u);
  const Json& first = answers.at("q0");
  EXPECT_EQ(first["response"]["status_code"], 200);
  EXPECT_EQ(first["response"]["body"]["usage"]["completion_tokens"], 4);
  EXPECT_TRUE(first["response"]["body"]["usage"].contains("cost_nanousd"));
  EXPECT_TRUE(first["mean_logprob"].is_number());
  EXPECT_TRUE(answers.at("q8").contains("exact_match"));
  int64_t cost = 0;
  for (const auto& [id, line] : answers) {
    cost += line["response"]["body"]["usage"]["cost_nanousd"].get<int64_t>();
  }
  EXPECT_EQ(batch["usage"]["cost_nanousd"], cost);
  const auto errors = Results(batch["error_file_id"]);
  ASSERT_EQ(errors.size(), 6u);
  EXPECT_EQ(errors.at("")["response"]["status_code"], 400);
  EXPECT_EQ(errors.at("q4")["response"]["status_code"], 404);
  for (const char* id : {"q3", "q5", "q6", "long"}) {
    EXPECT_EQ(errors.at(id)["response"]["status_code"], 400) << id;
    EXPECT_FALSE(errors.at(id)["error"]["message"].get<std::string>().empty());
  }
  EXPECT_THAT(errors.at("q3")["error"]["message"].get<std::string>(),
              HasSubstr("the batch's endpoint"));
  const Json output =
      Call("GET", absl::StrCat("/v1/files/", batch["output_file_id"].get<std::string>())).json();
  EXPECT_EQ(output["purpose"], "batch_output");
  EXPECT_GT(output["bytes"], 0);
  service_->ExpectUnharmed();
}

TEST_F(FilesTest, ABatchThatCannotBeMadeSaysWhy) {
  Serve();
  const std::string file = Upload(Lines(1));
  const std::pair<Json, const char*> wrong[] = {
      {{{"endpoint", "/v1/embeddings"}}, "endpoint"},
      {{{"endpoint", nullptr}}, "endpoint"},
      {{{"completion_window", "1h"}}, "completion_window"},
      {{{"completion_window", nullptr}}, "completion_window"},  // C16: left out
      {{{"input_file_id", nullptr}}, "input_file_id"},
      {{{"input_file_id", "file-none"}}, "input_file_id"},
      {{{"input_file_id", 7}}, "input_file_id"},
      {{{"metadata", {{"a", 1}}}}, "metadata[a]"},
  };
  for (const auto& [change, param] : wrong) {
    const HttpAnswer answer = Create(file, change);
    EXPECT_EQ(answer.status, 400) << change;
    EXPECT_EQ(answer.error()["param"], param);
  }
  EXPECT_EQ(Call("POST", "/v1/batches", "{").status, 400);
  EXPECT_EQ(Call("GET", "/v1/batches?limit=0").status, 400);
  EXPECT_THAT(Call("GET", "/v1/batches").json()["data"], IsEmpty());
}

TEST_F(FilesTest, F9ACancelledBatchKeepsWhatItHas) {
  Serve();
  service_->executor.step_us = 3000;
  const std::string file = Upload(Lines(500));
  const std::string id = Create(file).json()["id"];
  WaitFor(id, [](const Json& batch) { return batch["request_counts"]["completed"] >= 4; });
  const HttpAnswer in_use = Call("DELETE", "/v1/files/" + file);
  EXPECT_EQ(in_use.status, 400) << "it is being read";
  EXPECT_THAT(in_use.error()["message"].get<std::string>(), HasSubstr(id));
  const HttpAnswer cancelled = Call("POST", "/v1/batches/" + id + "/cancel");
  EXPECT_EQ(cancelled.status, 200);
  EXPECT_THAT(cancelled.json()["status"].get<std::string>(), HasSubstr("cancel"));
  const Json batch = WaitForStatus(id, "cancelled");
  const int64_t completed = batch["request_counts"]["completed"];
  EXPECT_GE(completed, 4);
  EXPECT_LT(completed, 500);
  EXPECT_EQ(batch["request_counts"]["failed"], 0);
  EXPECT_EQ(static_cast<int64_t>(Results(batch["output_file_id"]).size()), completed);
  EXPECT_TRUE(batch["error_file_id"].is_null());
  EXPECT_EQ(Call("POST", "/v1/batches/" + id + "/cancel").status, 200) << "as it was asked";
  service_->executor.step_us = 0;
  const std::string other = Begin(Lines(1));
  WaitForStatus(other, "completed");
  EXPECT_EQ(Call("POST", "/v1/batches/" + other + "/cancel").status, 400);
  EXPECT_EQ(Call("DELETE", "/v1/files/" + file).status, 200);
}

TEST_F(FilesTest, F9ABatchWhoseTimeIsUpExpiresWithALineForEachThatIsLeft) {
  options_.jobs.window_seconds = 1;
  Serve();
  service_->executor.step_us = 20'000;
  const std::string id = Begin(Lines(200));
  const Json batch = WaitForStatus(id, "expired");
  const auto answers = Results(batch["output_file_id"]);
  const auto errors = Results(batch["error_file_id"]);
  EXPECT_GT(answers.size(), 0u);
  EXPECT_EQ(answers.size() + errors.size(), 200u);
  for (const auto& [custom_id, line] : errors) {
    EXPECT_EQ(line["error"]["code"], "batch_expired");
    EXPECT_TRUE(line["response"].is_null());
    EXPECT_EQ(answers.count(custom_id), 0u);
  }
  EXPECT_EQ(batch["request_counts"]["failed"], errors.size());
}

TEST_F(FilesTest, F6ABatchGoesOnWithTheNextStart) {
  Serve();
  service_->executor.step_us = 2000;
  const std::string id = Begin(Lines(120));
  WaitFor(id, [](const Json& batch) { return batch["request_counts"]["completed"] >= 8; });
  Serve();
  const Json batch = WaitForStatus(id, "completed");
  EXPECT_EQ(batch["request_counts"]["completed"], 120);
  EXPECT_EQ(Results(batch["output_file_id"]).size(), 120u);
  // What nobody knows is taken away at a start, and what is known stays.
  std::ofstream(folder_ + "/file-leftover") << "x";
  Serve();
  EXPECT_EQ(Contents().count("file-leftover"), 0u);
  EXPECT_EQ(Results(batch["output_file_id"]).size(), 120u);
  EXPECT_EQ(Batch(id), batch);
}

TEST_F(FilesTest, F7ABatchWithoutRoomForItsResultsPausesAndGoesOn) {
  options_.files_bytes_max = 60'000;
  Serve();
  const std::string filler = Upload(Line(1, {{"pad", std::string(40'000, 'x')}}));
  const std::string id = Begin(Lines(40));
  WaitFor(id, [](const Json& batch) { return batch["request_counts"]["completed"] >= 4; });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const Json paused = Batch(id);
  EXPECT_EQ(paused["status"], "in_progress");
  EXPECT_LT(paused["request_counts"]["completed"], 40);
  EXPECT_EQ(Call("DELETE", "/v1/files/" + filler).status, 200);
  const Json batch = WaitForStatus(id, "completed");
  EXPECT_EQ(Results(batch["output_file_id"]).size(), 40u);
}

TEST_F(FilesTest, WhoMayNotUseTheBatchClassHearsItAtOnce) {
  options_.tenants = folder_ + "-tenants.json";
  std::ofstream(options_.tenants) << R"({"tenants": {"shop": {"classes": ["interactive"]}}})";
  Serve();
  EXPECT_EQ(Create(Upload(Lines(1))).status, 403);
}

TEST_F(FilesTest, ATenantHasSoManyBatchesAtOnce) {
  options_.jobs.tenant_jobs_max = 1;
  Serve();
  service_->executor.held = true;
  const std::string file = Upload(Lines(1));
  const std::string id = Create(file).json()["id"];
  EXPECT_EQ(Create(file).status, 429);
  service_->executor.held = false;
  WaitForStatus(id, "completed");
  EXPECT_EQ(Create(file).status, 200);
}

TEST_F(FilesTest, ListsComeInPages) {
  Serve();
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(Begin(Lines(1)));
  const Json first = Call("GET", "/v1/batches?limit=2").json();
  EXPECT_EQ(first["data"][0]["id"], ids[4]);
  EXPECT_EQ(first["last_id"], ids[3]);
  EXPECT_EQ(first["has_more"], true);
  const Json rest = Call("GET", absl::StrCat("/v1/batches?limit=3&after=", ids[3])).json();
  EXPECT_EQ(rest["data"].size(), 3u);
  EXPECT_EQ(rest["data"][0]["id"], ids[2]);
  EXPECT_EQ(rest["has_more"], false);
  EXPECT_EQ(Call("GET", "/v1/files?order=asc&purpose=batch&limit=1").json()["data"].size(), 1u);
}

TEST_F(FilesTest, WhoLooksIntoTheListOfFilesDelaysAStartAndDoesNotEndIt) {
  const std::string list = folder_ + "/files.db";
  Serve();
  service_ = nullptr;
  sqlite3* reader = nullptr;
  ASSERT_EQ(sqlite3_open(list.c_str(), &reader), SQLITE_OK);
  const auto execute = [reader](const char* sql) {
    return sqlite3_exec(reader, sql, nullptr, nullptr, nullptr);
  };
  ASSERT_EQ(execute("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE"), SQLITE_OK);
  std::thread looks([reader] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    sqlite3_close(reader);
  });
  EXPECT_TRUE(FileStore::Open(folder_, 1).ok());
  looks.join();
}

}  // namespace
}  // namespace tuppence
