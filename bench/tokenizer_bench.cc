// Time to tokenise a MiB of what is hard for a tokenizer: runs of one character, as a caller might
// send to hold the service up, and plain words beside them. Goal: 50 ms for any MiB.
//   tokenizer_bench FOLDER VOCAB [rounds]     figures go to bench/results
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <utility>

#include "model/tokenizer.h"

namespace tuppence {
namespace {

constexpr size_t kTextBytes = 1 << 20;

std::string Repeated(const std::string& unit) {
  std::string text;
  while (text.size() < kTextBytes) text += unit;
  return text;
}

// The best of the rounds: what else runs only adds to a time.
double BestMilliseconds(const Tokenizer& tokenizer, const std::string& text, int rounds,
                        size_t* tokens) {
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    *tokens = tokenizer.Encode(text).size();
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    best = std::min(best, time.count());
  }
  return best;
}

int Run(const char* folder, int vocab, int rounds) {
  const auto tokenizer = Tokenizer::Load(folder, vocab);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "error: %s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  const std::pair<const char*, std::string> units[] = {
      {"one letter", "A"},
      {"spaces", " "},
      {"newlines", "\n"},
      {"one CJK character", "\xE4\xB8\xAD"},
      {"combining marks", "\xCC\x81"},
      {"emoji", "\xF0\x9F\x98\x80"},
      {"words", "Where is my order 48213? It was due on Monday. "}};
  std::printf("%-20s %10s %10s\n", "1 MiB of", "ms, best", "tokens");
  for (const auto& [name, unit] : units) {
    size_t tokens = 0;
    const double ms = BestMilliseconds(**tokenizer, Repeated(unit), rounds, &tokens);
    std::printf("%-20s %10.1f %10zu\n", name, ms, tokens);
  }
  return 0;
}

}  // namespace
}  // namespace tuppence

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: tokenizer_bench FOLDER VOCAB [rounds]\n");
    return 2;
  }
  return tuppence::Run(argv[1], std::atoi(argv[2]), argc > 3 ? std::atoi(argv[3]) : 10);
}
