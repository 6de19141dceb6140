"""The figures of a report. `drawing` has the style and what all share; the other files are one for each kind of figure."""
