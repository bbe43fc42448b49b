// AccountMoney: what each account has cost so far: closed periods at their own cards, exactly, and
// the time since the last of them at the card in force. Used by metrics; guards nothing, its owner
// does.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "scheduler/period.h"
#include "scheduler/rate_card.h"

namespace tuppence {

inline constexpr int kAccounts = 6;
inline constexpr std::array<const char*, kAccounts> kAccountNames = {
    "startup", "idle", "request", "overhead", "drain", "unrecorded"};

// In the order of the names.
constexpr std::array<int64_t, kAccounts> NsOf(const AccountTotals& accounts) {
  return {accounts.startup_ns,  accounts.idle_ns,  accounts.request_ns,
          accounts.overhead_ns, accounts.drain_ns, accounts.unrecorded_ns};
}

class AccountMoney {
 public:
  void AddPeriod(const Period& period);

  // In USD, by account, up to `totals`; never less than it said before. None until a rate has been
  // known: no rate is not the same as costing nothing.
  std::optional<std::array<double, kAccounts>> UpTo(const AccountTotals& totals,
                                                    const RateCard& card);

 private:
  bool known_ = false;
  std::array<int64_t, kAccounts> closed_ns_ = {};  // of closed periods
  std::array<ExactMoney, kAccounts> closed_ = {};
  std::array<ExactMoney, kAccounts> told_ = {};
};

}  // namespace tuppence
