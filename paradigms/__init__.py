"""Reference implementations of generative paradigms, one file each."""

__distribution__ = "paradigm-bench"
