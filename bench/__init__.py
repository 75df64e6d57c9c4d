"""Benchmarks, one workload a file: ``./dev bench NAME``. What they show is in ``docs/performance.md``."""
