"""The parts of `benchmarks/forecast.py`."""
