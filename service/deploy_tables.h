// The tables of deploy/ that the program carries with it, so that a copied binary knows them:
// their text, put in by the build. Read by rate_cards, reference_price and planner/machine_speeds.
#pragma once

namespace tuppence {

extern const char kMachinePricesJson[];    // deploy/machine_prices.json
extern const char kMachineSpeedsJson[];    // deploy/machine_speeds.json
extern const char kReferencePricesJson[];  // deploy/reference_prices.json

}  // namespace tuppence
