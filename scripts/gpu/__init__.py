"""The first minutes on a GPU, `make first-gpu`: what holds on this card, as a table of verdicts, in under ten minutes.

`first_gpu.py` has the list of checks and runs each in a process of its own; each is a function from a `Setting`
(device, folder, sizes) to verdicts, so that all run on a CPU with tiny encoders, too (`--rehearse`).
"""
