"""The words that all of `paradigms` speaks: data, noise, plans, settings, errors. Nothing here knows a model."""
