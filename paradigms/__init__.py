"""Reference implementations of generative paradigms, one file each."""
