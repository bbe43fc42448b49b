#include "service/batch_totals.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "service/money.h"
#include "service/text_table.h"

namespace tuppence {
namespace {

constexpr int kBarColumns = 24;

// "45 s", "12 min", "3.4 h".
std::string Rough(double seconds) {
  if (seconds < 90) return absl::StrFormat("%.0f s", seconds);
  if (seconds < 5400) return absl::StrFormat("%.0f min", seconds / 60);
  return absl::StrFormat("%.1f h", seconds / 3600);
}

}  // namespace

void BatchTotals::Add(const nlohmann::json& line) {
  absl::MutexLock lock(&mutex_);
  using Pointer = nlohmann::json::json_pointer;
  const bool answered = line.value(Pointer("/response/status_code"), 0) == 200;
  ++(answered ? sums_.answered : sums_.refused);
  // What broke off has used something too.
  const nlohmann::json usage =
      line.value(Pointer("/response/body/usage"), nlohmann::json::object());
  if (!usage.is_object()) return;
  sums_.prompt_tokens += usage.value("prompt_tokens", int64_t{0});
  sums_.completion_tokens += usage.value("completion_tokens", int64_t{0});
  if (const auto details = usage.find("prompt_tokens_details"); details != usage.end()) {
    sums_.cached_tokens += details->value("cached_tokens", int64_t{0});
  }
  if (const auto cost = usage.find("cost_nanousd"); cost != usage.end() && cost->is_number()) {
    sums_.cost_nanousd += cost->get<int64_t>();
    sums_.priced += answered;
  }
  if (!answered) return;
  if (const auto details = usage.find("cost_details");
      details != usage.end() && details->contains("reference_nanousd")) {
    sums_.reference_nanousd += (*details)["reference_nanousd"].get<int64_t>();
    sums_.reference_id = details->value("reference_id", "");
    ++sums_.referenced;
  }
  if (const auto match = line.find("exact_match"); match != line.end() && match->is_boolean()) {
    ++sums_.expected;
    sums_.exact += match->get<bool>();
  }
}

BatchSums BatchTotals::sums() const {
  absl::MutexLock lock(&mutex_);
  return sums_;
}

std::string FormatTotals(const BatchSums& sums, int64_t lines) {
  std::string text = absl::StrCat("answered ", WithCommas(sums.answered), ", refused ",
                                  WithCommas(sums.refused), " of ", WithCommas(lines), " lines\n");
  if (sums.expected > 0) {
    absl::StrAppend(&text, "as expected, exactly: ", WithCommas(sums.exact), " of ",
                    WithCommas(sums.expected), " (",
                    absl::StrFormat("%.1f %%", 100.0 * sums.exact / sums.expected), ")\n");
  }
  absl::StrAppend(&text, "tokens: ", WithCommas(sums.prompt_tokens), " prompt (",
                  WithCommas(sums.cached_tokens), " cached), ", WithCommas(sums.completion_tokens),
                  " completion\n");
  absl::StrAppend(&text, "cost: ",
                  sums.has_cost() ? absl::StrCat(FormatUsd(sums.cost_nanousd), " USD")
                                  : std::string("not known, for there is no rate card"));
  if (sums.priced > 0 && sums.priced < sums.answered) {
    absl::StrAppend(&text, " for ", WithCommas(sums.priced), " of them");
  }
  if (sums.referenced > 0) {
    absl::StrAppend(&text, "\nat ", sums.reference_id, ": ", FormatUsd(sums.reference_nanousd),
                    " USD for ", WithCommas(sums.referenced), " of them");
  }
  return text + "\n";
}

std::string FormatProgress(const BatchProgress& progress, int columns) {
  const BatchSums& sums = progress.sums;
  const double part = progress.lines > 0 ? static_cast<double>(sums.lines()) / progress.lines : 1;
  const int filled = static_cast<int>(std::clamp(part, 0.0, 1.0) * kBarColumns);
  std::string text =
      absl::StrCat("[", std::string(filled, '='), std::string(kBarColumns - filled, ' '), "] ",
                   WithCommas(sums.lines()), "/", WithCommas(progress.lines));
  if (sums.refused > 0) absl::StrAppend(&text, ", ", WithCommas(sums.refused), " refused");
  const double seconds = std::max(progress.seconds, 1e-3);
  absl::StrAppend(&text,
                  absl::StrFormat(", %.0f tokens/s",
                                  (sums.completion_tokens - progress.tokens_before) / seconds));
  if (sums.has_cost()) absl::StrAppend(&text, ", ", FormatUsdShort(sums.cost_nanousd), " USD");
  const int64_t done_now = sums.lines() - progress.lines_before;
  if (done_now > 0) {
    absl::StrAppend(&text, ", ", Rough(seconds / done_now * (progress.lines - sums.lines())),
                    " left");
  }
  if (static_cast<int>(text.size()) > columns) text.resize(columns);
  return text;
}

}  // namespace tuppence
