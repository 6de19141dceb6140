"""Train, time, score and compare generative paradigms under one protocol."""
