// What tests of the books share: rows and periods made up from a number, and a look into a store
// with plain SQL, as somebody else's program would take it.
#pragma once

#include <sqlite3.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "scheduler/step_records.h"

namespace tuppence {

// A folder of the test at hand, empty.
std::string EmptyFolder();

// A row and its stream, of the year 2096, so that no retention takes it; the numbers differ from
// one to the next, and add up as the ledger's do.
EndedRequest MakeEnded(int64_t number);
Period MakePeriod(int64_t number);

// Each row of the answer, its values joined by '|'; NULL is "null".
std::vector<std::string> Query(const std::string& path, const std::string& sql);
// The answer's one value.
std::string QueryOne(const std::string& path, const std::string& sql);
void Alter(const std::string& path, const std::string& sql);

}  // namespace tuppence
