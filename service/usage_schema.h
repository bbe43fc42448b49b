// The usage store's tables. The store writes them; invoice, explain, verify and export read them.
// Times are integer nanoseconds: *_ns on the monotonic clock of one boot, *_utc_ns since 1970.
#pragma once

namespace tuppence {

inline constexpr int kUsageSchemaVersion = 4;

inline constexpr char kUsageSchema[] = R"sql(
CREATE TABLE runs (                 -- one for each process
  run_id          TEXT PRIMARY KEY, -- random, 32 hex digits
  instance        TEXT NOT NULL,    -- the machine, as the bill names it (--instance)
  boot_id         TEXT NOT NULL,    -- monotonic times compare within one
  version         TEXT NOT NULL,
  model           TEXT NOT NULL,
  arithmetic_id   TEXT NOT NULL,
  machine_share_ppm INTEGER NOT NULL,
  started_ns      INTEGER NOT NULL,
  started_utc_ns  INTEGER NOT NULL,
  ended_ns        INTEGER,          -- null: still running; after a kill, the last sign of life
  ended_utc_ns    INTEGER
) STRICT;

CREATE TABLE rate_cards (           -- every card a period was booked with, as it was then
  rate_card_id    TEXT PRIMARY KEY,
  micro_usd_per_hour INTEGER NOT NULL,
  source          TEXT NOT NULL,    -- list, effective, spot, flag
  valid_from_utc_ns INTEGER NOT NULL
) STRICT;

CREATE TABLE periods (
  run_id          TEXT NOT NULL REFERENCES runs,
  number          INTEGER NOT NULL,
  start_ns        INTEGER NOT NULL,
  end_ns          INTEGER NOT NULL,
  utc_start_ns    INTEGER NOT NULL,
  rate_card_id    TEXT,             -- null: no rate known
  micro_usd_per_hour INTEGER,       -- of the whole machine
  startup_ns      INTEGER NOT NULL,
  idle_ns         INTEGER NOT NULL,
  request_ns      INTEGER NOT NULL,
  overhead_ns     INTEGER NOT NULL,
  drain_ns        INTEGER NOT NULL,
  unrecorded_ns   INTEGER NOT NULL,
  PRIMARY KEY (run_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE period_charges (
  run_id          TEXT NOT NULL,
  number          INTEGER NOT NULL,
  tenant          TEXT NOT NULL,
  model           TEXT NOT NULL,
  request_ns      INTEGER NOT NULL,
  open_ns         INTEGER NOT NULL,
  written_off_ns  INTEGER NOT NULL, -- of the rows stored with written_off = 1
  lost_ns         INTEGER NOT NULL, -- of requests that ended unrecorded: booked here or earlier, no row
  PRIMARY KEY (run_id, number, tenant, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE requests (
  sequence        INTEGER PRIMARY KEY AUTOINCREMENT, -- the order they became durable in
  request_id      TEXT NOT NULL UNIQUE,
  caller_id       TEXT NOT NULL,
  run_id          TEXT NOT NULL REFERENCES runs,
  tenant          TEXT NOT NULL,
  model           TEXT NOT NULL,
  received_utc_ns INTEGER NOT NULL,
  ended_utc_ns    INTEGER NOT NULL,
  ended_ns        INTEGER NOT NULL,
  outcome         TEXT NOT NULL,    -- ok, length, cancelled, deadline, drained, error, cost_limit
  code            INTEGER NOT NULL, -- gRPC's
  prompt_tokens   INTEGER NOT NULL,
  cached_tokens   INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  queue_ns        INTEGER NOT NULL,
  prefill_time_ns INTEGER NOT NULL, -- by the clock on the wall
  decode_time_ns  INTEGER NOT NULL,
  total_ns        INTEGER NOT NULL,
  time_to_first_token_ns INTEGER NOT NULL,
  steps           INTEGER NOT NULL,
  preemptions     INTEGER NOT NULL,
  mean_requests_per_step REAL NOT NULL,
  kv_block_seconds REAL NOT NULL,
  machine_ns      INTEGER NOT NULL, -- booked = shared_ns + own_ns = prefill_ns + decode_ns
  shared_ns       INTEGER NOT NULL,
  own_ns          INTEGER NOT NULL,
  prefill_ns      INTEGER NOT NULL,
  decode_ns       INTEGER NOT NULL,
  unrecorded_ns   INTEGER NOT NULL, -- of machine_ns: booked to the unrecorded account, not to request
  written_off     INTEGER NOT NULL, -- 1: priced at nothing: by our own fault, or made again
  cost_nanousd    INTEGER,          -- as told to the caller; null: no rate card
  rate_card_id    TEXT,             -- the card at its end
  reference_nanousd INTEGER,        -- what the reference price would have asked; null: none set
  reference_id    TEXT
) STRICT;
CREATE INDEX periods_by_start ON periods (utc_start_ns);
CREATE INDEX requests_by_end ON requests (ended_utc_ns);
CREATE INDEX requests_by_tenant ON requests (tenant, ended_utc_ns);
CREATE INDEX requests_by_caller_id ON requests (caller_id) WHERE caller_id != '';
)sql";

// Day: of UTC, since 1970. A request is spent in the day it was received in.
inline constexpr char kBudgetSchema[] = R"sql(
CREATE TABLE tenant_days (          -- what each tenant's requests were told they cost, every tenant's
  tenant          TEXT NOT NULL,
  day             INTEGER NOT NULL,
  spent_nanousd   INTEGER NOT NULL, -- of the rows in requests, and of the holds that were cut off
  PRIMARY KEY (tenant, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX tenant_days_by_day ON tenant_days (day);

CREATE TABLE budget_holds (         -- requests in progress of tenants with a budget
  request_id      TEXT PRIMARY KEY,
  run_id          TEXT NOT NULL REFERENCES runs,
  tenant          TEXT NOT NULL,
  day             INTEGER NOT NULL,
  held_nanousd    INTEGER NOT NULL, -- what it may cost at most
  held_ns         INTEGER NOT NULL,
  micro_usd_per_hour INTEGER NOT NULL, -- of the whole machine, then
  machine_share_ppm INTEGER NOT NULL,
  cut_off_nanousd INTEGER           -- null: in progress; else a kill ended it, and this was posted
) STRICT, WITHOUT ROWID;

INSERT INTO tenant_days
  SELECT tenant, received_utc_ns / 86400000000000, sum(coalesce(cost_nanousd, 0))
  FROM requests GROUP BY 1, 2;
)sql";

// Which answer a caller's key stands for. What was asked is there as a hash alone, what was
// answered not at all: it is made again from the request, which its caller sends once more, and the
// seed.
inline constexpr char kAnswerKeysSchema[] = R"sql(
CREATE TABLE answer_keys (
  tenant          TEXT NOT NULL,
  name            TEXT NOT NULL,
  request_sha256  TEXT NOT NULL,
  seed            INTEGER NOT NULL, -- its 64 bits
  request_id      TEXT NOT NULL,    -- that was answered, and billed
  run_id          TEXT NOT NULL REFERENCES runs,
  received_utc_ns INTEGER NOT NULL,
  outcome         TEXT NOT NULL,
  PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX answer_keys_by_time ON answer_keys (received_utc_ns);
ALTER TABLE requests ADD COLUMN replay_of TEXT; -- whose answer it made again; null: an answer of its own
)sql";

// The card at a process's start, for one that ends before its first period.
inline constexpr char kRunCardsSchema[] = R"sql(
ALTER TABLE runs ADD COLUMN start_rate_card_id TEXT; -- null: no rate known
ALTER TABLE runs ADD COLUMN start_micro_usd_per_hour INTEGER; -- of the whole machine
)sql";

// Element i takes a store from version i to i + 1; an empty file is version 0.
inline constexpr const char* kUsageMigrations[kUsageSchemaVersion] = {
    kUsageSchema, kBudgetSchema, kAnswerKeysSchema, kRunCardsSchema};

// PRAGMA application_id: "TPPC". Tells our files from other programs' databases.
inline constexpr int kUsageApplicationId = 0x54505043;

}  // namespace tuppence
