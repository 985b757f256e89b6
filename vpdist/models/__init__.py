"""A model as one thing with a name: encoders, classifier, chunk length, and what is known about their scores.

Enters: a folder, a hub id, or the short name of a preset. Leaves: its description, checked against its files, and the
files themselves, downloaded where needed. A model is data: nothing in it is run.
"""
