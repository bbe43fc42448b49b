// The tokenizer as a filter, for tokenizer_differential.py, which compares it with SentencePiece.
//   tokenizer_pipe FOLDER VOCAB
// reads one request a line and answers with one line:
//   e HEX        the ids of the text whose UTF-8 bytes are HEX
//   d ID ID ...  the hexadecimal bytes of the text of the ids, special tokens left out
#include <cstdint>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "model/tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: tokenizer_pipe FOLDER VOCAB" << std::endl;
    return 2;
  }
  const auto tokenizer = tuppence::Tokenizer::Load(argv[1], std::stoi(argv[2]));
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << std::endl;
    return 1;
  }
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream request(line);
    std::string verb;
    request >> verb;
    if (verb == "e") {
      std::string hex;
      request >> hex;
      std::cout << absl::StrJoin((*tokenizer)->Encode(absl::HexStringToBytes(hex)), " ") << '\n';
    } else {
      std::vector<int32_t> ids;
      for (int32_t id; request >> id;) ids.push_back(id);
      std::cout << absl::BytesToHexString((*tokenizer)->Decode(ids, true)) << '\n';
    }
  }
  return 0;
}
