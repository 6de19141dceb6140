"""Campaigns against the suite's own reliability: run by hand, a small sample of each by the tests."""
