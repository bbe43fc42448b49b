// Reading a file that a flag names: what is wrong with it is said with the flag and the path.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "model/file.h"

namespace tuppence {

// What `parse`, a function of the text to an absl::StatusOr, makes of the file.
template <typename Parse>
auto ReadFlagFile(const char* flag, const std::string& path, const Parse& parse)
    -> decltype(parse(std::string())) {
  constexpr int64_t kBytesMax = int64_t{4} << 30;
  const auto with_names = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(flag, " ", path, ": ", status.message()));
  };
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kBytesMax);
  if (!text.ok()) return with_names(text.status());
  auto parsed = parse(*text);
  if (!parsed.ok()) return with_names(parsed.status());
  return parsed;
}

}  // namespace tuppence
