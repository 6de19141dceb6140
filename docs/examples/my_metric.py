"""A metric of one's own in one file: how far the mean of the samples lies from that of real data.

[project.entry-points."bench.metrics"]
mine = "my_package.my_metric"
"""

from bench.metrics import Compared, Metric, Value


def mean_gap(given: Compared) -> Value:
    """The distance between the two means, over the spread of real data; 0 is best."""
    fake, real = (x.double().flatten(1) for x in (given.samples, given.real))
    gap = (fake.mean(0) - real.mean(0)).norm() / real.std(0).norm()
    return Value("mean_gap", gap.item())


METRICS = (
    Metric(
        "mean_gap",
        title="Mean gap",
        direction="↓",
        judged=True,  # mark the best in its column
        best="floor",
        meaning="distance between the means of samples and of real data, over the spread of real data",
        by=mean_gap,
        on="samples",  # or "images", "vectors", "features"
    ),
)
