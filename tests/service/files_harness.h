// FilesTest: a service that keeps files, and what its callers do with them. Used by files_test and
// kept_files_test.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/service/http_client.h"
#include "tests/service/service_harness.h"
#include "tests/service/usage_files.h"

namespace tuppence {

inline std::string Line(int number, const nlohmann::json& change = nlohmann::json::object()) {
  nlohmann::json body = {
      {"prompt", absl::StrCat("Order ", number)}, {"max_tokens", 4}, {"ignore_eos", true}};
  nlohmann::json line = {{"custom_id", absl::StrCat("q", number)},
                         {"method", "POST"},
                         {"url", "/v1/completions"},
                         {"body", body}};
  line.merge_patch(change);
  return line.dump();
}

inline std::string Lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) absl::StrAppend(&text, Line(i), "\n");
  return text;
}

inline std::string Form(const std::string& content, const std::string& purpose = "batch",
                        const std::string& filename = "in.jsonl") {
  return absl::StrCat("--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n", purpose,
                      "\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"",
                      filename, "\"\r\nContent-Type: application/octet-stream\r\n\r\n", content,
                      "\r\n--b--\r\n");
}

class FilesTest : public ::testing::Test {
 protected:
  FilesTest() {
    options_.files_dir = folder_;
    options_.limits.tenant_header = "x-tenant";
    options_.jobs.retry_ns = 50'000'000;
    options_.jobs.lines_max = 4;
  }
  void Serve() {
    service_ = nullptr;
    service_ = std::make_unique<ServiceHarness>(options_);
  }
  HttpAnswer Call(const std::string& verb, const std::string& path,
                  const std::optional<std::string>& body = std::nullopt,
                  HttpClient::Headers headers = {}) {
    headers.emplace("X-Tenant", tenant_);
    return Ask(service_->http->port(), verb, path, body, headers);
  }
  HttpAnswer PostForm(const std::string& form) {
    return Call("POST", "/v1/files", form, {{"Content-Type", "multipart/form-data; boundary=b"}});
  }
  std::string Upload(const std::string& content) {
    const HttpAnswer answer = PostForm(Form(content));
    EXPECT_EQ(answer.status, 200) << answer.body;
    return answer.status == 200 ? answer.json()["id"].get<std::string>() : "";
  }
  HttpAnswer Create(const std::string& file,
                    const nlohmann::json& change = nlohmann::json::object()) {
    nlohmann::json body = {
        {"input_file_id", file}, {"endpoint", "/v1/completions"}, {"completion_window", "24h"}};
    body.merge_patch(change);
    return Call("POST", "/v1/batches", body.dump());
  }
  std::string Begin(const std::string& content) {
    return Create(Upload(content)).json()["id"].get<std::string>();
  }
  nlohmann::json Batch(const std::string& id) { return Call("GET", "/v1/batches/" + id).json(); }
  template <typename Done>
  nlohmann::json WaitFor(const std::string& id, const Done& done) {
    for (int i = 0; i < 2000; ++i) {
      const nlohmann::json batch = Batch(id);
      if (done(batch)) return batch;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ADD_FAILURE() << Batch(id).dump();
    return Batch(id);
  }
  nlohmann::json WaitForStatus(const std::string& id, const std::string& status) {
    return WaitFor(id,
                   [&status](const nlohmann::json& batch) { return batch["status"] == status; });
  }
  // The lines of a result, by custom_id; none may be there twice.
  std::map<std::string, nlohmann::json> Results(const nlohmann::json& file_id) {
    std::map<std::string, nlohmann::json> results;
    if (file_id.is_null()) return results;
    const HttpAnswer content =
        Call("GET", absl::StrCat("/v1/files/", file_id.get<std::string>(), "/content"));
    EXPECT_EQ(content.status, 200);
    for (const absl::string_view text : absl::StrSplit(content.body, '\n', absl::SkipEmpty())) {
      const nlohmann::json line = nlohmann::json::parse(std::string(text));
      const std::string id =
          line["custom_id"].is_string() ? line["custom_id"].get<std::string>() : "";
      EXPECT_TRUE(results.emplace(id, line).second) << id << " is there twice";
    }
    return results;
  }
  std::set<std::string> Contents() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("file-")) names.insert(name);
    }
    return names;
  }

  const std::string folder_ = EmptyFolder();
  HarnessOptions options_;
  std::string tenant_ = "shop";
  std::unique_ptr<ServiceHarness> service_;
};

}  // namespace tuppence
