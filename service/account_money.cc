#include "service/account_money.h"

#include <algorithm>

namespace tuppence {

void AccountMoney::AddPeriod(const Period& period) {
  const std::array<int64_t, kAccounts> ns = NsOf(period.accounts);
  known_ |= period.rate_card.known();
  for (int i = 0; i < kAccounts; ++i) {
    closed_ns_[i] += ns[i];
    if (period.rate_card.known()) closed_[i] += ExactMoneyOf(period.rate_card, ns[i]);
  }
}

std::optional<std::array<double, kAccounts>> AccountMoney::UpTo(const AccountTotals& totals,
                                                                const RateCard& card) {
  known_ |= card.known();
  if (!known_) return std::nullopt;
  const std::array<int64_t, kAccounts> ns = NsOf(totals);
  std::array<double, kAccounts> usd = {};
  for (int i = 0; i < kAccounts; ++i) {
    // Totals may have been read before the last period came.
    const int64_t open_ns = std::max<int64_t>(0, ns[i] - closed_ns_[i]);
    ExactMoney money = closed_[i];
    if (card.known()) money += ExactMoneyOf(card, open_ns);
    // For a moment after a card became cheaper, the period before is priced at the new card.
    told_[i] = std::max(told_[i], money);
    // ns x micro-USD an hour x ppm.
    usd[i] = static_cast<double>(told_[i]) / (3.6e12 * 1e6 * static_cast<double>(kPpm));
  }
  return usd;
}

}  // namespace tuppence
