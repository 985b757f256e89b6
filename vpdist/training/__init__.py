"""From embeddings of labelled sequences to a classifier: sides, fit, figures, plots.

Enters: a finished run of labelled sequences. Leaves: parameters, a history of epochs, and how well the calls do on
sequences that neither share an accession nor a 25-mer with those that were trained on.
"""
