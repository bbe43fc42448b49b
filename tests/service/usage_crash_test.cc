// The store on a disk that fails at its worst: at every single write, sync, truncation and deletion
// of a session, in turn, the power goes, the call fails, or the disk is full. Afterwards what Write
// returned OK for is there, with its numbers, and nothing is there twice.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "service/usage_store.h"
#include "tests/service/usage_files.h"
#include "tests/support/crash_disk.h"
#include "tests/support/fake_clock.h"

namespace tuppence {
namespace {

constexpr int kGroups = 7;
constexpr int kTries = 4;

BudgetHold HoldOf(const EndedRequest& ended) {
  return {.request_id = ended.row.id,
          .tenant = ended.row.tenant,
          .nanousd = 1'000'000,
          .held_ns = 1000,
          .held_utc_ns = ended.row.received_utc_ns,
          .rate_card = {.id = "card", .micro_usd_per_hour = 526'000}};
}

// A process with a store: writes groups of rows and periods, tries again what failed, tidies up.
class Session {
 public:
  Session(const std::string& path, CrashDisk* disk, CrashDisk::Fault fault)
      : path_(path), disk_(disk), fault_(fault) {}

  // Until all is written, or the power is gone.
  void Run() {
    FakeClock clock;
    const StoreOptions options = {.path = path_, .checkpoint_pages = 6, .vfs = disk_->name()};
    for (int starts = 0; starts < kTries; ++starts) {
      auto store = UsageStore::Open(options, {.started_ns = clock.NowNs()}, &clock);
      if (store.ok() && (*store)->NameModel("demo", "a").ok()) {
        WriteAll(store->get());
        return;
      }
      if (PowerIsGone()) return;
      disk_->Repair();
    }
    ADD_FAILURE() << "the store could not be opened once the disk was whole";
  }

  const std::set<std::string>& rows() const { return rows_; }
  const std::set<int64_t>& periods() const { return periods_; }
  const std::set<std::string>& tried() const { return tried_; }
  const std::set<std::string>& holds() const { return holds_; }

 private:
  bool PowerIsGone() const { return fault_ == CrashDisk::Fault::kPowerCut && disk_->reached(); }

  void WriteAll(UsageStore* store) {
    int64_t number = 0;
    for (int group = 0; group < kGroups; ++group) {
      std::vector<EndedRequest> ended;
      for (int i = 0; i <= group % 3; ++i) ended.push_back(MakeEnded(number++));
      std::vector<Period> periods;
      if (group % 2 == 1) periods.push_back(MakePeriod(group));
      for (const EndedRequest& one : ended) tried_.insert(one.row.id);
      // Each row's request was held since the group before, and one in each group never ends.
      HoldChanges holds;
      for (int i = 0; i <= (group + 1) % 3; ++i)
        holds.made.push_back(HoldOf(MakeEnded(number + i)));
      holds.made.push_back(HoldOf(MakeEnded(1000 + group)));
      bool written = false;
      for (int tries = 0; tries < kTries && !written; ++tries) {
        written = store->Write(ended, periods, holds).ok();
        if (PowerIsGone()) return;
        if (!written && tries > 0) disk_->Repair();
      }
      ASSERT_TRUE(written) << "group " << group << " once the disk was whole";
      for (const EndedRequest& one : ended) rows_.insert(one.row.id);
      for (const BudgetHold& one : holds.made) holds_.insert(one.request_id);
      for (const Period& period : periods) periods_.insert(period.number);
      store->Tidy(/*now_ns=*/0, /*utc_now_ns=*/0);
      if (PowerIsGone()) return;
    }
  }

  const std::string path_;
  CrashDisk* const disk_;
  const CrashDisk::Fault fault_;
  std::set<std::string> rows_, holds_, tried_;  // rows_, holds_: Write said OK
  std::set<int64_t> periods_;
};

// What the next start finds.
void ExpectKept(const std::string& path, const Session& session) {
  FakeClock clock;
  const auto store = UsageStore::Open({.path = path}, {.started_ns = clock.NowNs()}, &clock);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(QueryOne(path, "PRAGMA integrity_check"), "ok");
  std::multiset<std::string> found;
  for (const std::string& row : Query(path, "SELECT request_id, machine_ns FROM requests")) {
    const std::string id = row.substr(0, row.find('|'));
    const int64_t number = std::stoll(id.substr(id.find('-') + 1));
    EXPECT_EQ(row, absl::StrCat(id, "|", 1000 + number));
    EXPECT_EQ(session.tried().count(id), 1u) << id;
    found.insert(id);
  }
  for (const std::string& id : session.rows()) EXPECT_EQ(found.count(id), 1u) << id << " is lost";
  for (const std::string& id : found) EXPECT_EQ(found.count(id), 1u) << id << " is doubled";
  // Each request that was held is spent once: by its row, or as one that was cut off.
  EXPECT_EQ(QueryOne(path,
                     "SELECT count(*) FROM budget_holds WHERE cut_off_nanousd IS NULL OR "
                     "request_id IN (SELECT request_id FROM requests)"),
            "0");
  EXPECT_EQ(QueryOne(path,
                     "SELECT count(*) FROM (SELECT tenant, day, sum(nanousd) AS nanousd FROM "
                     "(SELECT tenant, received_utc_ns / 86400000000000 AS day, cost_nanousd "
                     "AS nanousd FROM requests UNION ALL SELECT tenant, day, "
                     "cut_off_nanousd FROM budget_holds) GROUP BY tenant, day) AS again "
                     "FULL JOIN tenant_days USING (tenant, day) "
                     "WHERE nanousd IS NOT spent_nanousd"),
            "0");
  for (const std::string& id : session.holds()) {
    EXPECT_EQ(found.count(id) +
                  std::stoul(QueryOne(path, absl::StrCat("SELECT count(*) FROM budget_holds "
                                                         "WHERE request_id = '",
                                                         id, "'"))),
              1u)
        << id;
  }
  for (const int64_t number : session.periods()) {
    EXPECT_EQ(QueryOne(path, absl::StrCat("SELECT request_ns, (SELECT sum(request_ns) FROM "
                                          "period_charges WHERE number = ",
                                          number, ") FROM periods WHERE number = ", number)),
              "900|900");
  }
}

class UsageCrashTest : public testing::TestWithParam<std::pair<const char*, CrashDisk::Fault>> {};

TEST_P(UsageCrashTest, NothingAcknowledgedIsLostOrDoubledAtAnyPoint) {
  const CrashDisk::Fault fault = GetParam().second;
  const std::string folder = EmptyFolder();
  constexpr uint64_t kSeeds = 3;
  int64_t point = 0;
  bool reached = true;
  for (; reached && !HasFailure(); ++point) {
    for (uint64_t seed = 0; seed < kSeeds && !HasFailure(); ++seed) {
      SCOPED_TRACE(absl::StrCat(GetParam().first, " at point ", point, ", seed ", seed));
      std::filesystem::remove_all(folder);
      std::filesystem::create_directories(folder);
      CrashDisk disk(seed + 1000 * point);
      disk.Plan(fault, point);
      Session session(folder + "/usage.db", &disk, fault);
      session.Run();
      reached = disk.reached();
      disk.CutPower();
      ExpectKept(folder + "/usage.db", session);
    }
  }
  EXPECT_GT(point, 50);  // the session has so many at least
}

INSTANTIATE_TEST_SUITE_P(Faults, UsageCrashTest,
                         testing::Values(std::pair("power cut", CrashDisk::Fault::kPowerCut),
                                         std::pair("failing call", CrashDisk::Fault::kFailOnce),
                                         std::pair("full disk", CrashDisk::Fault::kFull),
                                         std::pair("failing sync", CrashDisk::Fault::kNoSync)),
                         [](const auto& info) {
                           std::string name = info.param.first;
                           name.erase(name.find(' '), 1);
                           return name;
                         });

}  // namespace
}  // namespace tuppence
