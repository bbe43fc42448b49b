// Where the reference data of Phi-3's own tokenizer lies, beside the project; not on every machine.
#pragma once

#include <string>

namespace tuppence {

inline const std::string kPublishedTokenizer =
    std::string(TUPPENCE_SOURCE_DIR) + "/../shared/data/tokenizer";

}  // namespace tuppence
