"""The tables of a report as data: what each cell says, in words and as a number. The writers only set them.

`headline` is the one table that answers the question; `quality`, `likelihood`, `cost`, `sampling`, `pairs` and `sources` make
those below it. A cell knows its interval, whether it is among the best, and why it is missing.
"""
