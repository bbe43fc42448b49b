// BatchTotals: what a batch has come to: counted from its output's lines, those of earlier runs
// included, so that the totals are the job's and not the run's. Any thread.
#pragma once

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "nlohmann/json.hpp"

namespace tuppence {

struct BatchSums {
  int64_t answered = 0;
  int64_t refused = 0;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cost_nanousd = 0;
  int64_t priced = 0;  // answers whose cost is known
  int64_t reference_nanousd = 0;
  int64_t referenced = 0;  // answers with a reference price
  std::string reference_id;
  int64_t expected = 0;  // answers that an expected one stood beside
  int64_t exact = 0;     // of them, equal

  int64_t lines() const { return answered + refused; }
  // What broke off may cost something where nothing was answered; an answer may cost nothing.
  bool has_cost() const { return priced > 0 || cost_nanousd > 0; }
};

class BatchTotals {
 public:
  // A line of the output.
  void Add(const nlohmann::json& line);
  BatchSums sums() const;

 private:
  mutable absl::Mutex mutex_;
  BatchSums sums_ ABSL_GUARDED_BY(mutex_);
};

// "answered 990, refused 10 of 1,000 lines; ...", a few lines for people.
std::string FormatTotals(const BatchSums& sums, int64_t lines);

// How far a run is.
struct BatchProgress {
  BatchSums sums;
  int64_t lines = 0;          // of the input
  int64_t lines_before = 0;   // answered or refused in earlier runs
  int64_t tokens_before = 0;  // completion tokens of theirs
  double seconds = 0;         // since this run began
};

// One line, at most `columns` wide: bar, lines, tokens per second, cost, time left.
std::string FormatProgress(const BatchProgress& progress, int columns);

}  // namespace tuppence
