#include "tests/service/service_harness.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "model/check.h"

namespace tuppence {
namespace {

constexpr int32_t kBlocks = 2048;

ServedModel MakeModel(const HarnessOptions& options) {
  ServedModel model;
  model.name = "demo";
  model.context_tokens = options.engine.context_tokens;
  model.vocab = 4032;
  auto tokenizer = Tokenizer::Load(DemoCheckpoint(), model.vocab);
  CHECK(tokenizer.ok());
  const auto mapped = (*tokenizer)->mapped_ids();
  model.mapped_ids.assign(mapped.begin(), mapped.end());
  if (options.tokenizer) {
    model.tokenizer = *tokenizer;
  } else {
    model.tokenizer_missing_why = "its checkpoint has no tokenizer";
    model.template_missing_why = model.tokenizer_missing_why;
  }
  if (options.tokenizer && options.chat_template == "auto") {
    auto chat_template = ChatTemplate::Recognise(**tokenizer);
    CHECK(chat_template.ok());
    model.chat_template = *chat_template;
    model.stop_ids = {chat_template->end_id()};
  } else if (options.tokenizer) {
    model.template_missing_why = "it was started with --chat-template none";
  }
  model.loaded_unix_seconds = 1'700'000'000;
  model.weight_type = "null";
  return model;
}

template <typename Options>
Options OnFreePort(Options options) {
  options.port = 0;
  return options;
}

}  // namespace

absl::Status PacedExecutor::Wait(std::span<SampledToken> tokens) {
  while (held) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (step_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(step_us));
  if (failing) return absl::InternalError("the device was lost");
  const absl::Status status = tokens_.Wait(tokens);
  if (not_finite) {
    for (SampledToken& token : tokens) token.not_finite = true;
  }
  return status;
}

HarnessOptions::HarnessOptions() {
  engine.idle_beat_ns = 10'000'000;  // an engine that stops sleeps one beat first
  engine.context_tokens = 2048;
  engine.blocks = kBlocks;
  engine.sequences_max = 64;
  engine.logit_rows_max = 64;
  engine.rate_card = {"test-card", 526'000};
}

ServiceHarness::ServiceHarness(HarnessOptions options)
    : model(MakeModel(options)),
      executor(model.vocab),
      admission(options.admission),
      engine(options.engine, &executor, model.tokenizer.get(), &clock),
      answer_keys(&model, options.usage_store),
      metrics({.model_name = model.name, .context_tokens = model.context_tokens}, &clock),
      log_lines([this](std::string_view line) {
        absl::MutexLock lock(&log_mutex_);
        log_text_ += line;
        log_text_ += '\n';
      }) {
  parts = {.model = &model,
           .engine = &engine,
           .admission = &admission,
           .clock = &clock,
           .calls = &calls,
           .log = &log_lines,
           .counters = &counters,
           .limits = options.limits,
           .metrics = &metrics,
           .usage_store = options.usage_store};
  if (!options.tenants.empty()) {
    auto opened = Tenants::Open(options.tenants, &admission);
    CHECK(opened.ok());
    tenants = *std::move(opened);
    parts.tenants = tenants.get();
  }
  parts.rates = &rates;
  parts.answer_keys = &answer_keys;
  parts.budgets = options.budgets;
  if (!options.keys.empty()) {
    auto opened = ApiKeys::Open(options.keys, &clock);
    CHECK(opened.ok());
    keys = *std::move(opened);
    parts.keys = keys.get();
  }
  engine.Start();
  if (!options.files_dir.empty()) {
    files = FileStore::Open(options.files_dir, options.files_bytes_max, options.files_keep_seconds)
                .value();
    jobs = BatchJobs::Start(options.jobs, parts, files.get()).value();
    parts.files = files.get();
    parts.jobs = jobs.get();
    options.http.limits.upload_bytes_max = kFileBytesMax + (64 << 10);
  }
  auto started = Server::Start(OnFreePort(options.server), parts);
  if (!started.ok()) std::cerr << started.status() << std::endl;
  CHECK(started.ok());
  server = *std::move(started);
  auto http_started =
      HttpServer::Start(OnFreePort(options.http), parts, [this] { return server->readiness(); });
  if (!http_started.ok()) std::cerr << http_started.status() << std::endl;
  CHECK(http_started.ok());
  http = *std::move(http_started);
  if (server->uses_tls() || keys != nullptr) return;
  channel_ = NewChannel(address());
  const auto good = Generate(GoodRequest());
  CHECK_EQ(good->Wait().code,
           options.tokenizer && options.chat_template == "auto" ? kOk : kFailedPrecondition);
  if (good->Wait().code == kOk) good_answer_ = good->token_ids();
}

ServiceHarness::~ServiceHarness() {
  executor.held = false;
  http->Stop(0);
  jobs.reset();
  server->Stop(0);
  engine.Stop();
}

std::string ServiceHarness::address() const { return absl::StrCat("127.0.0.1:", server->port()); }

std::unique_ptr<OngoingCall> ServiceHarness::Start(const v1::GenerateRequest& request,
                                                   CallOptions options) {
  return std::make_unique<OngoingCall>(channel_, request, options);
}

std::unique_ptr<OngoingCall> ServiceHarness::Generate(const v1::GenerateRequest& request,
                                                      CallOptions options) {
  auto call = Start(request, std::move(options));
  call->Wait();
  return call;
}

CallEnd ServiceHarness::CallBytes(const std::string& method, const std::string& request,
                                  std::string* response, CallOptions options) {
  return CallWithBytes(channel_, absl::StrCat("/tuppence.v1.Inference/", method), request, response,
                       options);
}

v1::GenerateRequest ServiceHarness::GoodRequest() {
  v1::GenerateRequest request;
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role(v1::ROLE_USER);
  message->set_content("Where is my order 48213?");
  request.mutable_sampling()->set_max_tokens(4);
  request.mutable_sampling()->set_seed(7);
  request.mutable_sampling()->set_ignore_eos(true);
  request.mutable_output()->set_token_ids(true);
  return request;
}

void ServiceHarness::ExpectAtRest() {
  for (int i = 0; i < 5000; ++i) {
    const EngineSnapshot now = engine.Snapshot();
    if (now.running == 0 && now.waiting == 0 && now.blocks_used == 0 &&
        admission.snapshot().requests == 0 && calls.size() == 0) {
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const EngineSnapshot now = engine.Snapshot();
  EXPECT_EQ(now.running, 0);
  EXPECT_EQ(now.waiting, 0);
  EXPECT_EQ(now.blocks_used, 0);
  EXPECT_EQ(admission.snapshot().requests, 0);
  EXPECT_EQ(admission.snapshot().prompt_tokens, 0);
  EXPECT_EQ(calls.size(), 0);
}

void ServiceHarness::ExpectUnharmed() {
  ExpectAtRest();
  if (good_answer_.empty()) return;  // no tokenizer: there is no good text request
  const auto good = Generate(GoodRequest());
  EXPECT_EQ(good->Wait().code, kOk) << good->Wait().message;
  EXPECT_EQ(good->token_ids(), good_answer_);
}

std::string DemoCheckpoint() {
  return absl::StrCat(TUPPENCE_SOURCE_DIR, "/deploy/demo_model/checkpoint");
}

std::string ServiceConfigOfTheExample() {
  std::ifstream file(absl::StrCat(TUPPENCE_SOURCE_DIR, "/deploy/examples/service_config.json"));
  std::ostringstream text;
  text << file.rdbuf();
  CHECK(!text.str().empty());
  return text.str();
}

std::shared_ptr<grpc::Channel> NewChannel(const std::string& address,
                                          const std::string& service_config) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (service_config.empty()) {
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  } else {
    arguments.SetServiceConfigJSON(service_config);
  }
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

void WaitFor(const std::function<bool()>& condition) {
  for (int i = 0; i < 5000 && !condition(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(condition());
}

}  // namespace tuppence
