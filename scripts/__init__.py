"""Programs around the package: a demonstration, benchmarks, fault injection, checks of the source tree.

Each is a module that is started from the root of a checkout, such as `python -m scripts.bench.balance`.
"""
