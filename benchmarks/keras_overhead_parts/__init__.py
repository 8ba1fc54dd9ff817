"""The parts of `benchmarks/keras_overhead.py`."""
