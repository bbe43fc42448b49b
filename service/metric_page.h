// MetricPage: one answer to a scrape: samples put in by metric id, written out in Prometheus's text
// format. Checks each sample against the table's row. Made for each scrape, on the admin thread.
//
// Written here and not by prometheus-cpp's serializer, whose streams take four times as long: on a
// machine of two cores that both compute, a scrape's time is taken from a step.
#pragma once

#include <prometheus/client_metric.h>

#include <string>
#include <string_view>
#include <vector>

#include "service/metric_table.h"

namespace tuppence {

class MetricPage {
 public:
  // The table outlives the page. model_name is a label of every sample.
  MetricPage(const std::vector<MetricSpec>& table, const std::string& model_name);

  // label_values in the order of the row's labels; one for each. A vLLM family's engine is "0", and
  // is not given.
  void Add(MetricId id, double value, const std::vector<std::string>& label_values = {});
  void Add(MetricId id, const prometheus::ClientMetric::Histogram& histogram,
           const std::vector<std::string>& label_values = {});

  // Families without a sample are left out.
  std::string Text() const;

 private:
  // name="value",... of a sample, without the braces.
  std::string Labels(const MetricSpec& spec, const std::vector<std::string>& label_values) const;
  void AddLine(MetricId id, std::string_view suffix, std::string_view labels, double value);

  const std::vector<MetricSpec>& table_;
  const std::string model_label_;
  std::vector<std::string> lines_;  // by id: its samples
};

}  // namespace tuppence
