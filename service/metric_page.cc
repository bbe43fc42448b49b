#include "service/metric_page.h"

#include <prometheus/text_serializer.h>

#include <sstream>

#include "model/check.h"

namespace tuppence {
namespace {

constexpr char kEngine[] = "0";

prometheus::MetricType TypeOf(MetricKind kind) {
  switch (kind) {
    case MetricKind::kGauge:
      return prometheus::MetricType::Gauge;
    case MetricKind::kCounter:
      return prometheus::MetricType::Counter;
    case MetricKind::kHistogram:
      return prometheus::MetricType::Histogram;
  }
  return prometheus::MetricType::Untyped;
}

}  // namespace

MetricPage::MetricPage(const std::vector<MetricSpec>& table, const std::string& model_name)
    : table_(table), model_name_(model_name) {
  families_.reserve(table.size());
  for (const MetricSpec& spec : table) {
    families_.push_back({spec.name, spec.help, TypeOf(spec.kind), {}});
  }
}

prometheus::ClientMetric* MetricPage::NewSample(MetricId id,
                                                const std::vector<std::string>& label_values) {
  const MetricSpec& spec = table_[static_cast<size_t>(id)];
  prometheus::ClientMetric& sample = families_[static_cast<size_t>(id)].metric.emplace_back();
  sample.label.push_back({"model_name", model_name_});
  size_t given = 0;
  for (const char* label : spec.labels) {
    if (spec.is_vllm() && std::string(label) == "engine") {
      sample.label.push_back({label, kEngine});
      continue;
    }
    CHECK_LT(given, label_values.size());
    sample.label.push_back({label, label_values[given++]});
  }
  CHECK_EQ(given, label_values.size());
  return &sample;
}

void MetricPage::Add(MetricId id, double value, const std::vector<std::string>& label_values) {
  const MetricKind kind = table_[static_cast<size_t>(id)].kind;
  CHECK(kind != MetricKind::kHistogram);
  prometheus::ClientMetric* sample = NewSample(id, label_values);
  (kind == MetricKind::kCounter ? sample->counter.value : sample->gauge.value) = value;
}

void MetricPage::Add(MetricId id, const prometheus::ClientMetric::Histogram& histogram,
                     const std::vector<std::string>& label_values) {
  CHECK(table_[static_cast<size_t>(id)].kind == MetricKind::kHistogram);
  NewSample(id, label_values)->histogram = histogram;
}

std::string MetricPage::Text() && {
  std::erase_if(families_, [](const auto& family) { return family.metric.empty(); });
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families_);
  return text.str();
}

}  // namespace tuppence
