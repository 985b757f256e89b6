"""A unit through the encoders: tokens in, embeddings and calls out, one part file written.

Enters: a plan's units, one at a time. Leaves: parts. A unit that ends its process is computed in a child process.
"""
