"""The demonstration, `make demo`: a synthetic sample, random encoders, a fitted classifier, a summary of the results.

Benchmarks and fault tests use its samples and models.
"""
