#include "service/metric_page.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "model/check.h"

namespace tuppence {
namespace {

constexpr char kEngine[] = "0";
constexpr size_t kCountBytes = 24;   // the longest number of a bucket and the line's end
constexpr size_t kSuffixBytes = 16;  // _bucket and the like, and braces
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

MetricFrame::MetricFrame(const std::vector<MetricSpec>& specs, const std::string& model_name)
    : table(specs), model_label(Label("model_name", model_name)) {
  for (const MetricSpec& spec : table) {
    Family family = {
        .head = absl::StrCat("# HELP ", spec.name, " ",
                             absl::StrReplaceAll(spec.help, {{"\\", "\\\\"}, {"\n", "\\n"}}),
                             "\n# TYPE ", spec.name, " ", TypeOf(spec.kind), "\n")};
    if (spec.kind == MetricKind::kHistogram) {
      std::vector<double> bounds = spec.buckets;
      bounds.push_back(std::numeric_limits<double>::infinity());
      for (const double bound : bounds) {
        std::string end = ",le=\"";
        AppendNumber(bound, &end);
        family.bucket_ends.push_back(end + "\"} ");
      }
    }
    families.push_back(std::move(family));
  }
}

MetricPage::MetricPage(const MetricFrame& frame) : frame_(frame), lines_(frame.table.size()) {}

std::string MetricPage::Labels(const MetricSpec& spec,
                               const std::vector<std::string>& label_values) const {
  std::string labels = frame_.model_label;
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
  text += frame_.table[static_cast<size_t>(id)].name;
  text.append(suffix).append("{").append(labels).append("} ");
  AppendNumber(value, &text);
  text += '\n';
}

void MetricPage::Add(MetricId id, double value, const std::vector<std::string>& label_values) {
  const MetricSpec& spec = frame_.table[static_cast<size_t>(id)];
  CHECK(spec.kind != MetricKind::kHistogram);
  AddLine(id, "", Labels(spec, label_values), value);
}

void MetricPage::Add(MetricId id, const prometheus::ClientMetric::Histogram& histogram,
                     const std::vector<std::string>& label_values) {
  const MetricSpec& spec = frame_.table[static_cast<size_t>(id)];
  CHECK(spec.kind == MetricKind::kHistogram);
  const std::vector<std::string>& ends = frame_.families[static_cast<size_t>(id)].bucket_ends;
  CHECK_EQ(ends.size(), histogram.bucket.size());
  const std::string labels = Labels(spec, label_values);
  const std::string begin = absl::StrCat(spec.name, "_bucket{", labels);
  std::string& text = lines_[static_cast<size_t>(id)];
  size_t bytes = text.size() + 2 * (begin.size() + kSuffixBytes + kCountBytes);
  for (const std::string& end : ends) bytes += begin.size() + end.size() + kCountBytes;
  text.reserve(bytes);
  for (size_t i = 0; i < ends.size(); ++i) {
    text.append(begin).append(ends[i]);
    AppendNumber(static_cast<double>(histogram.bucket[i].cumulative_count), &text);
    text += '\n';
  }
  AddLine(id, "_count", labels, static_cast<double>(histogram.sample_count));
  AddLine(id, "_sum", labels, histogram.sample_sum);
}

std::string MetricPage::Text() const {
  std::string text;
  size_t bytes = 0;
  for (size_t id = 0; id < lines_.size(); ++id) {
    bytes += frame_.families[id].head.size() + lines_[id].size();
  }
  text.reserve(bytes);
  for (size_t id = 0; id < lines_.size(); ++id) {
    if (!lines_[id].empty()) text.append(frame_.families[id].head).append(lines_[id]);
  }
  return text;
}

}  // namespace tuppence
