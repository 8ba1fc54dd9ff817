"""What `benchmarks/gpu_check.py` checks, one module for each kind of check."""
