// MetricPage: one answer to a scrape: samples put in by metric id, written out in Prometheus's text
// format. Checks each sample against the table's row. Made for each scrape, on the admin thread,
// from a MetricFrame: the text that is the same on every page.
//
// Written here and not by prometheus-cpp's serializer, whose streams take many times as long: on a
// machine of two cores that both compute, a scrape's time is taken from a step.
#pragma once

#include <prometheus/client_metric.h>

#include <string>
#include <string_view>
#include <vector>

#include "service/metric_table.h"

namespace tuppence {

struct MetricFrame {
  struct Family {
    std::string head;                           // its HELP and TYPE lines
    std::vector<std::string> bucket_ends = {};  // of a histogram: ,le="0.1"} and a space
  };

  // The table outlives the frame. model_name is a label of every sample.
  MetricFrame(const std::vector<MetricSpec>& specs, const std::string& model_name);

  const std::vector<MetricSpec>& table;
  const std::string model_label;
  std::vector<Family> families;  // by id
};

class MetricPage {
 public:
  // The frame outlives the page.
  explicit MetricPage(const MetricFrame& frame);

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

  const MetricFrame& frame_;
  std::vector<std::string> lines_;  // by id: its samples
};

}  // namespace tuppence
