"""The names of the files and folders that the suite writes."""

MANIFEST = "manifest.json"
INFO = "run.json"  # of a run: what was run, how it ended, what it cost
BASELINES = "baselines"  # the folder, beside those of the recipes, of what no run is needed for
RESULTS = "results.jsonl"
LOCK = ".lock"
