// The plot: see plan_forms.h. Plain SVG, both axes logarithmic: costs and latencies of machines lie
// powers of ten apart.
#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "service/planner/plan_forms.h"

namespace tuppence {
namespace {

constexpr double kWidth = 860;
constexpr double kHeight = 512;
constexpr double kLeft = 80;
constexpr double kRight = 640;  // names of machines stand beyond it
constexpr double kTop = 56;
constexpr double kBottom = 440;
// Told apart by people who see fewer colours too (Okabe & Ito 2008).
constexpr std::array<const char*, 7> kColours = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                                 "#E69F00", "#56B4E9", "#666666"};

std::string Escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else {
      out += c;
    }
  }
  return out;
}

// A logarithmic axis over whole marks of 1, 2 and 5.
class Axis {
 public:
  Axis(double from, double to) : from_(from), to_(to) {}

  void Include(double value) {
    if (value <= 0) return;
    low_ = low_ == 0 ? value : std::min(low_, value);
    high_ = std::max(high_, value);
  }
  bool empty() const { return low_ == 0; }
  // After the last value: to the marks around them.
  void Close() {
    std::vector<double> marks;
    for (int power = static_cast<int>(std::floor(std::log10(low_))) - 1;
         power <= std::ceil(std::log10(high_)) + 1; ++power) {
      for (const double step : {1.0, 2.0, 5.0}) marks.push_back(step * std::pow(10, power));
    }
    const auto first = std::upper_bound(marks.begin(), marks.end(), low_ / 1.05) - 1;
    const auto last = std::lower_bound(marks.begin(), marks.end(), high_ * 1.05);
    marks_.assign(first, last + 1);
  }
  double At(double value) const {
    const double part = std::log(value / marks_.front()) / std::log(marks_.back() / marks_.front());
    return from_ + part * (to_ - from_);
  }
  const std::vector<double>& marks() const { return marks_; }

 private:
  const double from_;
  const double to_;
  double low_ = 0;
  double high_ = 0;
  std::vector<double> marks_;
};

struct Axes {
  Axis x{kLeft, kRight};
  Axis y{kBottom, kTop};
};

bool Shown(const PlanRow& row) { return row.keeps_up && row.cost_nanousd > 0; }

double X(const PlanRow& row) { return 1e-9 * row.ttft_ns(0.95); }
double Y(const PlanRow& row) { return 1e3 * row.usd_per_request(); }

// The API's price for the same traffic, for 1,000 calls.
double ApiY(const Plan& plan) { return 1e3 * plan.api_usd_per_call(); }

std::string Line(double x1, double y1, double x2, double y2, const char* style) {
  return absl::StrFormat("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" %s/>\n", x1, y1, x2,
                         y2, style);
}

std::string Text(double x, double y, const std::string& text, const char* style = "") {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" %s>%s</text>\n", x, y, style, Escape(text));
}

std::string GridOf(const Axes& axes) {
  std::string svg;
  for (const double mark : axes.x.marks()) {
    svg += Line(axes.x.At(mark), kTop, axes.x.At(mark), kBottom, "stroke=\"#e4e4e4\"");
    svg +=
        Text(axes.x.At(mark), kBottom + 18, absl::StrFormat("%g", mark), "text-anchor=\"middle\"");
  }
  for (const double mark : axes.y.marks()) {
    svg += Line(kLeft, axes.y.At(mark), kRight, axes.y.At(mark), "stroke=\"#e4e4e4\"");
    svg += Text(kLeft - 8, axes.y.At(mark) + 4, absl::StrFormat("%g", mark), "text-anchor=\"end\"");
  }
  svg += Text((kLeft + kRight) / 2, kBottom + 42, "time to first token, p95, seconds",
              "text-anchor=\"middle\"");
  svg += absl::StrFormat(
      "<text transform=\"translate(22 %.1f) rotate(-90)\" text-anchor=\"middle\">USD for 1,000 "
      "answers</text>\n",
      (kTop + kBottom) / 2);
  return svg;
}

// The goal and the API's price.
std::string LimitsOf(const PlanQuestion& question, const Plan& plan, const Axes& axes) {
  constexpr char kDashed[] = "stroke=\"#333\" stroke-dasharray=\"5 4\"";
  std::string svg;
  if (question.goals.ttft_p95_ns > 0) {
    const double x = axes.x.At(1e-9 * question.goals.ttft_p95_ns);
    svg += Line(x, kTop, x, kBottom, kDashed);
    svg += Text(x - 5, kTop + 12, "goal", "text-anchor=\"end\" fill=\"#333\"");
  }
  if (ApiY(plan) > 0) {
    const double y = axes.y.At(ApiY(plan));
    svg += Line(kLeft, y, kRight, y, kDashed);
    svg += Text(kLeft + 6, y - 6, plan.api == "the invoice" ? "the API, by its invoice" : plan.api,
                "fill=\"#333\"");
  }
  return svg;
}

// A line through the points of a machine, each with its number of replicas; full where the goals
// are met.
std::string MachineOf(const PlanMachine& machine, const MachinePlan& plan, const char* colour,
                      const Axes& axes, int* names) {
  std::string points;
  std::string marks;
  for (const PlanRow& row : plan.rows) {
    if (!Shown(row)) continue;
    const double x = axes.x.At(X(row));
    const double y = axes.y.At(Y(row));
    absl::StrAppendFormat(&points, "%.1f,%.1f ", x, y);
    absl::StrAppendFormat(&marks,
                          "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"%s\" stroke=\"%s\" "
                          "stroke-width=\"2\"/>\n",
                          x, y, row.meets_goals ? colour : "white", colour);
    marks += Text(x + 8, y - 7, absl::StrCat(row.replicas, "x"), "font-size=\"11\"");
  }
  if (points.empty()) return "";
  const double name_y = kTop + 10 + 22 * (*names)++;
  return absl::StrFormat(
             "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\"/>\n%s"
             "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"%s\"/>\n",
             points, colour, marks, kRight + 24, name_y - 4, colour) +
         Text(kRight + 36, name_y, absl::StrCat(machine.name, machine.assumed ? " *" : ""));
}

Axes AxesFor(const PlanQuestion& question, const Plan& plan) {
  Axes axes;
  for (const MachinePlan& machine : plan.machines) {
    for (const PlanRow& row : machine.rows) {
      if (!Shown(row)) continue;
      axes.x.Include(X(row));
      axes.y.Include(Y(row));
    }
  }
  if (axes.x.empty()) return axes;
  axes.x.Include(1e-9 * question.goals.ttft_p95_ns);
  axes.y.Include(ApiY(plan));
  axes.x.Close();
  axes.y.Close();
  return axes;
}

}  // namespace

std::string FormatPlanSvg(const PlanQuestion& question, const Plan& plan) {
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" viewBox=\"0 0 %g %g\" "
      "font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%%\" height=\"100%%\" "
      "fill=\"white\"/>\n",
      kWidth, kHeight, kWidth, kHeight);
  svg += Text(kLeft, 24, absl::StrCat("Cost against latency: ", question.model),
              "font-size=\"16\" font-weight=\"bold\"");
  svg += Text(kLeft, 42, question.traffic.source, "fill=\"#555\"");
  const Axes axes = AxesFor(question, plan);
  if (axes.x.empty()) {
    return svg + Text(kLeft, kTop + 40, "No machine with a price keeps up with this traffic.") +
           "</svg>\n";
  }
  svg += GridOf(axes) + LimitsOf(question, plan, axes);
  int names = 0;
  bool assumed = false;
  for (size_t i = 0; i < plan.machines.size(); ++i) {
    svg += MachineOf(question.machines[i], plan.machines[i], kColours[i % kColours.size()], axes,
                     &names);
    assumed |= question.machines[i].assumed;
  }
  svg += Text(kLeft, kHeight - 8,
              absl::StrCat("A full point meets the goals; 2x: two replicas.",
                           assumed ? " *: the machine's speed is assumed, not measured." : ""),
              "font-size=\"11\" fill=\"#555\"");
  return svg + "</svg>\n";
}

}  // namespace tuppence
