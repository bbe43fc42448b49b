// write_golden_checkpoint NAME FOLDER: the checkpoint that tests/golden/logprobs/NAME.json speaks
// of, for tests that give it to the program.
#include <cstdio>

#include "tests/golden/golden_checkpoint.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: write_golden_checkpoint NAME FOLDER\n");
    return 2;
  }
  tuppence::WriteGoldenCheckpoint(tuppence::ReadGolden(argv[1]), argv[2]);
  return 0;
}
