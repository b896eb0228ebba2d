"""The process on a node: takes leases from the market, runs work in sandboxes, hands in results."""
