"""The parts of `benchmarks/trend.py`."""
