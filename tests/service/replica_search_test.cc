// The fewest replicas that meet the goals are found, whichever they are, in few tries.
#include "service/planner/replica_search.h"

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tuppence {
namespace {

using ::testing::ElementsAre;

// What is tried where `enough` replicas meet the goals and fewer do not.
std::set<int32_t> Tried(ReplicaSearch* search, int32_t enough) {
  std::set<int32_t> tried;
  for (auto next = search->Next(); !next.empty(); next = search->Next()) {
    for (const int32_t replicas : next) {
      EXPECT_TRUE(tried.insert(replicas).second) << replicas << " twice";
      search->Learn(replicas, replicas >= enough);
    }
  }
  return tried;
}

TEST(ReplicaSearchTest, TheFewestAreTriedWithTheirNeighbours) {
  for (int32_t last = 1; last <= 9; ++last) {
    for (int32_t first = 1; first <= last; ++first) {
      for (int32_t guess = first; guess <= last; ++guess) {
        for (int32_t enough = first; enough <= last; ++enough) {
          ReplicaSearch search(first, last, guess);
          const std::set<int32_t> tried = Tried(&search, enough);
          EXPECT_TRUE(tried.contains(enough));
          EXPECT_TRUE(enough == first || tried.contains(enough - 1))
              << "or it may not be the least";
          EXPECT_TRUE(enough == last || tried.contains(enough + 1)) << "what one more brings";
          EXPECT_GE(*tried.begin(), first);
          EXPECT_LE(*tried.rbegin(), last);
        }
      }
    }
  }
}

TEST(ReplicaSearchTest, ASecondSearchBeginsWhereTheFirstHasEnded) {
  for (int32_t enough = 1; enough <= 1001; ++enough) {
    ReplicaSearch search(1, 1000, 500);
    EXPECT_LE(Tried(&search, enough).size(), 14u) << enough;
    search.StartAgain();
    EXPECT_LE(Tried(&search, enough).size(), 3u) << enough;
  }
  ReplicaSearch search(1, 8, 4);
  Tried(&search, /*enough=*/6);
  search.StartAgain();
  // The first replica alone made it look as if 6 were enough.
  EXPECT_THAT(Tried(&search, /*enough=*/7), ElementsAre(6, 7, 8));
}

TEST(ReplicaSearchTest, AGoalThatNoNumberMeetsIsSoonKnown) {
  ReplicaSearch search(1, 8, 4);
  EXPECT_THAT(Tried(&search, /*enough=*/9), ElementsAre(4, 5, 8));
  search.StartAgain();
  EXPECT_THAT(Tried(&search, /*enough=*/9), ElementsAre(8));
}

}  // namespace
}  // namespace tuppence
