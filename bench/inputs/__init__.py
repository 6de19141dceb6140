"""From what a user types or gives to the thing that is meant: one way for the command line and for Python.

    recipes    words that name recipes
    runs       the runs under a folder
    data       names of data sets
    chosen     one run that is meant, and where its data are
    plans      samplers, likelihoods and labels
    training   a run that can be trained
    targets    files and folders that are written to

Every function raises `BadInput` for what can not be meant. Nothing here imports torch before it is needed.
"""
