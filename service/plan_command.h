// `tuppence plan`: what a month of some traffic would cost on machines that nobody has rented yet,
// beside what a model API asks for it. Flags and files; service/planner does the planning.
#pragma once

namespace CLI {
class App;
}

namespace tuppence {

void AddPlanCommand(CLI::App& app, int* exit_code);

}  // namespace tuppence
