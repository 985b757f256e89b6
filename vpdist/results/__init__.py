"""Embeddings to calls: the classifier, the parts on disk, the three tables.

Enters: embeddings of one unit, or the parts of a whole run. Leaves: files that are whole or absent, the same bytes
whatever the number of ranks.
"""
