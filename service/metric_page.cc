#include "service/metric_page.h"

#include <charconv>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "model/check.h"

namespace tuppence {
namespace {

constexpr char kEngine[] = "0";
constexpr size_t kBucketBytes = 48;  // of a line, beside name and labels: as a rule enough
constexpr size_t kHeadBytes = 256;   // of a family
constexpr double kWholeMax = 1e15;   // a double holds whole numbers up to there, and more

const char* TypeOf(MetricKind kind) {
  switch (kind) {
    case MetricKind::kGauge:
      return "gauge";
    case MetricKind::kCounter:
      return "counter";
    case MetricKind::kHistogram:
      return "histogram";
  }
  return "untyped";
}

// The shortest text that is read back as the same number; whole numbers without an exponent.
void AppendNumber(double value, std::string* text) {
  if (!std::isfinite(value)) {
    absl::StrAppend(text, std::isnan(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf");
    return;
  }
  char digits[32];
  const bool whole = std::abs(value) < kWholeMax && value == std::floor(value);
  const std::to_chars_result end =
      whole ? std::to_chars(std::begin(digits), std::end(digits), static_cast<int64_t>(value))
            : std::to_chars(std::begin(digits), std::end(digits), value);
  text->append(digits, end.ptr);
}

std::string Label(absl::string_view name, const std::string& value) {
  return absl::StrCat(name, "=\"",
                      absl::StrReplaceAll(value, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}),
                      "\"");
}

}  // namespace

MetricPage::MetricPage(const std::vector<MetricSpec>& table, const std::string& model_name)
    : table_(table), model_label_(Label("model_name", model_name)), lines_(table.size()) {}

std::string MetricPage::Labels(const MetricSpec& spec,
                               const std::vector<std::string>& label_values) const {
  std::string labels = model_label_;
  size_t given = 0;
  for (const absl::string_view label : spec.labels) {
    const bool engine = spec.is_vllm() && label == "engine";
    CHECK(engine || given < label_values.size());
    absl::StrAppend(&labels, ",", Label(label, engine ? kEngine : label_values[given++]));
  }
  CHECK_EQ(given, label_values.size());
  return labels;
}

void MetricPage::AddLine(MetricId id, std::string_view suffix, std::string_view labels,
                         double value) {
  std::string& text = lines_[static_cast<size_t>(id)];
  text += table_[static_cast<size_t>(id)].name;
  text.append(suffix).append("{").append(labels).append("} ");
  AppendNumber(value, &text);
  text += '\n';
}

void MetricPage::Add(MetricId id, double value, const std::vector<std::string>& label_values) {
  const MetricSpec& spec = table_[static_cast<size_t>(id)];
  CHECK(spec.kind != MetricKind::kHistogram);
  AddLine(id, "", Labels(spec, label_values), value);
}

void MetricPage::Add(MetricId id, const prometheus::ClientMetric::Histogram& histogram,
                     const std::vector<std::string>& label_values) {
  const MetricSpec& spec = table_[static_cast<size_t>(id)];
  CHECK(spec.kind == MetricKind::kHistogram);
  std::string labels = Labels(spec, label_values);
  const size_t common = labels.size();
  std::string& text = lines_[static_cast<size_t>(id)];
  text.reserve(text.size() +
               (histogram.bucket.size() + 2) * (std::strlen(spec.name) + common + kBucketBytes));
  for (const prometheus::ClientMetric::Bucket& bucket : histogram.bucket) {
    labels.resize(common);
    labels += ",le=\"";
    AppendNumber(bucket.upper_bound, &labels);
    labels += '"';
    AddLine(id, "_bucket", labels, static_cast<double>(bucket.cumulative_count));
  }
  labels.resize(common);
  AddLine(id, "_count", labels, static_cast<double>(histogram.sample_count));
  AddLine(id, "_sum", labels, histogram.sample_sum);
}

std::string MetricPage::Text() const {
  std::string text;
  size_t bytes = 0;
  for (const std::string& lines : lines_) bytes += lines.size() + kHeadBytes;
  text.reserve(bytes);
  for (size_t id = 0; id < table_.size(); ++id) {
    if (lines_[id].empty()) continue;
    const MetricSpec& spec = table_[id];
    absl::StrAppend(&text, "# HELP ", spec.name, " ",
                    absl::StrReplaceAll(spec.help, {{"\\", "\\\\"}, {"\n", "\\n"}}), "\n# TYPE ",
                    spec.name, " ", TypeOf(spec.kind), "\n", lines_[id]);
  }
  return text;
}

}  // namespace tuppence
