#include "service/budget_store.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "service/sqlite_rows.h"

namespace tuppence {
namespace {

constexpr char kInsertHold[] = R"sql(
INSERT INTO budget_holds (request_id, run_id, tenant, day, held_nanousd, held_ns,
  micro_usd_per_hour, machine_share_ppm) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
  ON CONFLICT DO NOTHING)sql";
constexpr char kDeleteHold[] = "DELETE FROM budget_holds WHERE request_id = ?";
constexpr char kAddSpend[] = R"sql(
INSERT INTO tenant_days (tenant, day, spent_nanousd) VALUES (?, ?, ?)
  ON CONFLICT (tenant, day) DO UPDATE SET spent_nanousd = spent_nanousd + excluded.spent_nanousd
)sql";
constexpr char kSelectCutOff[] = R"sql(
SELECT request_id, tenant, day, held_nanousd, runs.ended_ns - held_ns, micro_usd_per_hour,
  budget_holds.machine_share_ppm FROM budget_holds JOIN runs USING (run_id)
  WHERE cut_off_nanousd IS NULL AND run_id != ?)sql";
constexpr char kCutOff[] = "UPDATE budget_holds SET cut_off_nanousd = ? WHERE request_id = ?";

struct CutOff {
  std::string request_id;
  std::string tenant;
  int64_t day = 0;
  int64_t nanousd = 0;
};

// Alone it would have been charged all the time that it had.
CutOff ReadCutOff(SqliteRows* rows) {
  CutOff cut;
  cut.request_id = rows->Text();
  cut.tenant = rows->Text();
  cut.day = rows->Integer();
  const int64_t held_nanousd = rows->Integer();
  const int64_t lived_ns = std::max<int64_t>(0, rows->Integer());
  RateCard card;
  card.micro_usd_per_hour = rows->Integer();
  card.machine_share_ppm = rows->Integer();
  cut.nanousd = std::min(held_nanousd, NanoUsd(card, lived_ns));
  return cut;
}

}  // namespace

bool BudgetStore::Prepare(sqlite3* database) {
  database_ = database;
  return hold_.Prepare(database, kInsertHold) == SQLITE_OK &&
         release_.Prepare(database, kDeleteHold) == SQLITE_OK &&
         spend_.Prepare(database, kAddSpend) == SQLITE_OK;
}

bool BudgetStore::Change(const HoldChanges& changes, const std::string& run_id) {
  for (const BudgetHold& hold : changes.made) {
    hold_ << hold.request_id << run_id << hold.tenant << DayOf(hold.held_utc_ns) << hold.nanousd
          << hold.held_ns << hold.rate_card.micro_usd_per_hour << hold.rate_card.machine_share_ppm;
    if (!hold_.Run()) return false;
  }
  for (const std::string& request_id : changes.gone) {
    release_ << request_id;
    if (!release_.Run()) return false;
  }
  return true;
}

bool BudgetStore::Post(const RequestRow& row, bool is_new) {
  release_ << row.id;
  if (!release_.Run()) return false;
  return !is_new || Add(row.tenant, DayOf(row.received_utc_ns), row.cost.cost_nanousd);
}

bool BudgetStore::Add(const std::string& tenant, int64_t day, int64_t nanousd) {
  spend_ << tenant << day << nanousd;
  return spend_.Run();
}

bool BudgetStore::PostCutOff(const std::string& run_id) {
  std::vector<CutOff> all;
  {
    SqliteRows rows(database_, kSelectCutOff);
    rows.Bind(1, run_id);
    while (rows.Next()) all.push_back(ReadCutOff(&rows));
    if (!rows.status().ok()) return false;
  }
  SqliteStatement cut_off;
  if (cut_off.Prepare(database_, kCutOff) != SQLITE_OK) return false;
  for (const CutOff& cut : all) {
    cut_off << cut.nanousd << cut.request_id;
    if (!cut_off.Run() || !Add(cut.tenant, cut.day, cut.nanousd)) return false;
  }
  return true;
}

bool BudgetStore::ReadSpend(int64_t utc_ns, std::vector<DaySpend>* spend) {
  const absl::CivilDay epoch(1970, 1, 1);
  const absl::CivilMonth month(epoch + DayOf(utc_ns));
  SqliteRows rows(database_, "SELECT tenant, day, spent_nanousd FROM tenant_days WHERE day >= ?");
  rows.Bind(1, absl::CivilDay(month) - epoch);
  while (rows.Next()) {
    DaySpend& one = spend->emplace_back();
    one.tenant = rows.Text();
    one.day = rows.Integer();
    one.nanousd = rows.Integer();
  }
  return rows.status().ok();
}

bool BudgetStore::Remove(int64_t before_utc_ns) {
  const std::string before = absl::StrCat(DayOf(before_utc_ns));
  return sqlite3_exec(database_,
                      absl::StrCat("DELETE FROM tenant_days WHERE day < ", before,
                                   "; DELETE FROM budget_holds WHERE cut_off_nanousd IS NOT NULL "
                                   "AND day < ",
                                   before)
                          .c_str(),
                      nullptr, nullptr, nullptr) == SQLITE_OK;
}

}  // namespace tuppence
