"""What several benchmarks share: estimates, targets, tables, the machine's facts, processes."""
