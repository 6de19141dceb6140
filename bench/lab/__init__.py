"""Experiments, run by hand: nothing of the product imports this package, and a run's code version leaves it out.

Campaigns against the suite's reliability (`campaign`, `fuzz`, `limits`), speed against other libraries (`peers`, `unet_speed`,
`kv_cache`, `metric_speed`, `overhead`, `step_cost`), how straight a flow's paths are (`straightness`), and what keeps the
repository's own pages (`readme`, `publish`).
"""
