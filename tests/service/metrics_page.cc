#include "tests/service/metrics_page.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace tuppence {

std::map<std::string, double> Samples(const std::string& page) {
  std::map<std::string, double> samples;
  for (const absl::string_view line : absl::StrSplit(page, '\n', absl::SkipEmpty())) {
    if (line[0] == '#') continue;
    const size_t space = line.rfind(' ');
    std::string name(line.substr(0, space));
    for (const char* everywhere :
         {"model_name=\"test\",", "model_name=\"test\"", "engine=\"0\",", "engine=\"0\""}) {
      const size_t at = name.find(everywhere);
      if (at != name.npos) name.erase(at, std::string(everywhere).size());
    }
    if (absl::EndsWith(name, ",}")) name.erase(name.size() - 2, 1);
    if (absl::EndsWith(name, "{}")) name.resize(name.size() - 2);
    EXPECT_TRUE(absl::SimpleAtod(line.substr(space + 1), &samples[name])) << line;
  }
  return samples;
}

}  // namespace tuppence
