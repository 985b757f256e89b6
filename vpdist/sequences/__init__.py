"""Reads and contigs to tokens: records, chunks, six frames, token ids, names.

Enters: FASTA or FASTQ in any usual compression. Leaves: the token store, in blocks that depend on the input alone. Bad
input ends here, with file, record and position.
"""
