// MetricPage: one answer to a scrape: samples put in by metric id, written out in Prometheus's text
// format. Checks each sample against the table's row. Made for each scrape, on the admin thread.
#pragma once

#include <prometheus/metric_family.h>

#include <string>
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

  // Families without a sample are left out. The page is used up.
  std::string Text() &&;

 private:
  prometheus::ClientMetric* NewSample(MetricId id, const std::vector<std::string>& label_values);

  const std::vector<MetricSpec>& table_;
  const std::string model_name_;
  std::vector<prometheus::MetricFamily> families_;  // by id
};

}  // namespace tuppence
