"""The parts of `benchmarks/overhead.py`; `comparison.py` uses them too."""
