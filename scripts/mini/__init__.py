"""The built-in model `mini`: made from labelled sequences, and judged on others.

It is a composition model: encoders that count words, a classifier fitted by `vpdist train`.
"""
