"""`bench evaluate` and `bench time`: rows of results of a run or of samples, and times of sampling."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench import tiers
from bench.cli import shown
from bench.cli.options import (
    MOST_THREADS,
    RUN_HELP,
    DeviceOption,
    JsonOption,
    OfRunOption,
    OutOption,
    TestOption,
    complete_run,
)
from bench.inputs.chosen import ChosenRun, run_of
from bench.inputs.data import announced, place_of
from bench.inputs.plans import kind_of, plan_of, plans_of, step_counts
from bench.inputs.recipes import is_recipe
from bench.inputs.runs import Runs, is_run
from paradigms.errors import BadInput

if TYPE_CHECKING:
    from bench.progress import Progress
    from bench.store import Row
    from bench.tiers import Tier
    from paradigms.core.plans import Kind, Plan

ARRAYS = (".npz", ".npy", ".safetensors")


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            help="A run, an .npz, .npy or .safetensors of samples, or a folder of images.", autocompletion=complete_run
        ),
    ],
    dataset: OfRunOption = None,
    test: TestOption = None,
    tier: Annotated[
        str | None,
        typer.Option(
            "--tier", "-t", help="Protocol for a run, its own by default; for samples: whose table they join."
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            help="Also in this feature space: inception-2015, net.onnx, my.safetensors, which run no code, or "
            "package.module:factory, which is code and runs. Repeatable.",
        ),
    ] = None,
    number: Annotated[
        int | None,
        typer.Option("-n", "--samples", min=2, help="Samples of a run for --features; the tier's by default."),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option("--resize", help="Bring samples of another size to the data's: bicubic, bilinear, area, nearest."),
    ] = None,
    crop: Annotated[
        bool,
        typer.Option(
            "--crop", help="Cut images to their largest centred square and resize them, as a folder of data is."
        ),
    ] = False,
    span: Annotated[
        str | None,
        typer.Option("--range", help="What samples' numbers span, LOW..HIGH: 0..1, 0..255, -1..1 (floats by default)."),
    ] = None,
    called: Annotated[
        str | None, typer.Option("--name", help="What tables call the samples; by default as their file is called.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="A folder to keep the rows of samples in; inside --out, `report` shows them."),
    ] = None,
    likelihood: Annotated[
        list[str] | None,
        typer.Option("--likelihood", help="Only this likelihood, with its options: KIND[:key=value,...]. Repeatable."),
    ] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            "--sampler", help="Only this sampler: NAME-STEPS[:key=value,...]; several values: key=1/2/4. Repeatable."
        ),
    ] = None,
    device: DeviceOption = "auto",
    out: OutOption = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Measure again what is already known.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Score a run, or anyone's samples, with the same metrics against the same real images.

    [bold]Examples[/bold]
    \b
        bench evaluate flow-matching
        bench evaluate runs/digits/vae/0-3f2a91c04d --tier standard --json
        bench evaluate vae --likelihood iwae:K=5000
        bench evaluate ddpm --sampler ancestral-1000 --sampler ddim-50:eta=0.5
        bench evaluate flow-matching --sampler heun-16:guidance=0/1/1.5/2/4
        bench evaluate my-samples.npz --dataset fashion-mnist
        bench evaluate my-folder-of-pngs/ --dataset cifar10 --resize bicubic
        bench evaluate my-floats.npy --dataset cifar10 --range 0..1 --name theirs
        bench evaluate my-photographs/ --dataset folder:my-photographs@32 --crop
        bench evaluate my-samples.npz --tier quick --to runs/digits/external/mine
        bench evaluate my-50k.npz --dataset cifar10 --features inception-2015
        bench evaluate vae --features my-net.onnx:size=224,channels=3,range=imagenet
    """
    runs, are_samples = Runs(out), _are_samples(what)
    place = place_of(dataset or "digits", runs, test) if are_samples else None
    run = None if are_samples else run_of(what, dataset, runs, test)
    questions = Questions(likelihood or (), sampler or (), features or (), number)
    of_samples = {"--resize": resize, "--crop": crop or None, "--range": span, "--name": called, "--to": to}
    questions.check(what, are_samples, of_samples)

    from bench.inputs.samples import external_of
    from bench.reading import Range

    if run is None:
        assert place is not None
        taken = None if span is None else Range.parse(span)
        if called is not None and not called.strip():
            raise BadInput("--name is empty; give the samples a name, or leave it out")
        joined = None if tier is None else tiers.get(tier)
        external = external_of(resize, crop, taken, features or (), joined, called or "", to)
        found = announced(place, runs).place
        with shown.working(f"evaluate {what}", as_json) as progress:
            rows = external.score(Path(what), found, progress)
        _show_external(rows, to, as_json)
    else:
        scoring = questions.of_run(run, tier)
        with shown.working(f"evaluate {what}", as_json) as progress:
            rows = scoring.rows(progress, device, force)
        _show_scored(rows, scoring, as_json)
    if any(row.status in ("failed", "diverged") for row in rows):
        raise typer.Exit(1)


def _are_samples(what: str) -> bool:
    """Whether a file or folder holds samples, and no run is meant. Raises BadInput for a file that is not there."""
    target = Path(what)
    if target.suffix.lower() in ARRAYS and not target.exists():
        raise BadInput(f"there is no file {what}; give an .npz, .npy or .safetensors of samples, or a run")
    return target.exists() and not is_run(target) and not is_recipe(what)


@dataclass(frozen=True)
class Questions:
    """Which rows `bench evaluate` is asked for, as typed: of these likelihoods, samplers or feature spaces, or all.

    number: of samples in a feature space.
    """

    likelihoods: Sequence[str]
    samplers: Sequence[str]
    features: Sequence[str]
    number: int | None

    def check(self, what: str, are_samples: bool, of_samples: Mapping[str, object]) -> None:
        """Raises BadInput for more than one question, and for options that do not go with samples or with a run.

        of_samples: the values of the options that only samples have; None where an option was not given.
        """
        if are_samples and self.likelihoods:
            raise BadInput(f"{what} holds samples, which have no likelihood; leave out --likelihood, or name a run")
        if are_samples and self.samplers:
            raise BadInput(f"{what} holds samples, which are drawn already; leave out --sampler, or name a run")
        given = {"--likelihood": self.likelihoods, "--sampler": self.samplers, "--features": self.features}
        asked = [option for option, values in given.items() if values]
        if len(asked) > 1:
            raise BadInput(f"{' and '.join(asked)} are {len(asked)} questions; ask one at a time")
        for option, value in of_samples.items():
            if value is not None and not are_samples:
                raise BadInput(f"{option} is for samples, and {what} is not; leave it out")
        if self.number is not None and are_samples:
            raise BadInput(f"--samples is for runs, and {what} is not; leave it out")
        if self.number is not None and not self.features:
            raise BadInput("--samples goes with --features; a run's own rows are of as many as its tier says")

    def of_run(self, run: ChosenRun, tier: str | None) -> Scoring:
        """What is asked of a run. Raises BadInput for a likelihood or sampler that it does not have."""
        recipe = run.info.recipe
        kinds = [kind_of(run.card, recipe, run.data.space, text) for text in self.likelihoods]
        plans = [plan for text in self.samplers for plan in plans_of(run.card, recipe, text)]
        return Scoring(run, run.tier(tier), kinds, plans, self.features, self.number)


@dataclass(frozen=True)
class Scoring:
    """What is measured of a run, by which tier: these likelihoods, plans or feature spaces, or all that the tier says."""

    run: ChosenRun
    tier: Tier
    kinds: Sequence[Kind]
    plans: Sequence[Plan]
    features: Sequence[str]
    number: int | None

    def rows(self, progress: Progress, device: str, force: bool) -> list[Row]:
        """The rows, with those of the floor at their end."""
        from bench import scores
        from bench.runs import device_of

        folder, place, out = self.run.folder, self.run.place, self.run.out
        how = (self.tier, progress, str(device_of(device)), force)
        if self.kinds:
            rows = scores.likelihoods(folder, self.kinds, *how, place, out)
        elif self.plans:
            rows = scores.sampled(folder, self.plans, *how, place, out)
        elif self.features:
            rows = scores.in_spaces(folder, self.features, *how, self.number, place, out)
        else:
            rows = scores.evaluate(folder, *how, place, out)
        return rows + self._floor(rows, progress)

    def _floor(self, rows: Sequence[Row], progress: Progress) -> list[Row]:
        """What as many real training examples score as the headline plan drew; none where no samples were scored."""
        from bench import scores
        from bench.store import baselines_of

        n = next((row.n for row in rows if row.headline and row.sampler and row.n), None)
        if n is None:
            return []
        kept = baselines_of(Path(os.path.abspath(self.run.folder)).parents[1], self.tier.name)

        def tell(what: str, done: int, of: int) -> None:
            progress.update(f"the floor: {what}", done, of)

        folder = None if self.features else kept
        return scores.floor(self.run.data.place, n, self.tier, folder, self.features, tell)

    def refused(self, rows: Sequence[Row]) -> str:
        """Why likelihoods that were asked for have no value; "" where all have one or failed."""
        reasons = {
            row.reason: None
            for row in rows
            if (row.value is None or not math.isfinite(row.value))
            if self.kinds and row.status == "ok" and row.reason and row.kind
        }
        return "; ".join(reasons)


def _show_external(rows: Sequence[Row], to: Path | None, as_json: bool) -> None:
    """Prints the rows of samples and where they are kept."""
    if as_json:
        shown.print_rows(rows)
        return
    shown.scores(rows)
    if to is not None:
        print(f"kept in {to}; `bench report {shlex.quote(str(to.parent))}` shows them, marked external")


def _show_scored(rows: Sequence[Row], scoring: Scoring, as_json: bool) -> None:
    """Prints the rows of a run and, of another tier than its own, where they are kept. Raises BadInput as `refused` says."""
    from bench.runs import measured

    if reasons := scoring.refused(rows):
        raise BadInput(reasons)
    if as_json:
        shown.print_rows(rows)
        return
    shown.scores(rows, every=bool(scoring.plans))
    tier, own = scoring.tier.name, scoring.run.info.tier
    if tier != own:
        kept_in = measured(scoring.run.folder, scoring.run.info, tier)
        print(f"measured by tier {tier}, not by the run's own, {own}, whose rows stay as they are")
        if kept_in.exists():  # of a codec nothing is
            print(f"kept in {kept_in}; `bench report` and `bench compare` show it with --tier {tier}")


def time_(
    chosen: Annotated[
        list[str], typer.Argument(help=RUN_HELP + " Several are timed interleaved.", autocompletion=complete_run)
    ],
    sampler: Annotated[str | None, typer.Option("--sampler", help="The card's default.")] = None,
    steps: Annotated[str | None, typer.Option("--steps", help="Step counts, separated by commas.")] = None,
    dataset: OfRunOption = None,
    tier: Annotated[
        str | None, typer.Option("--tier", "-t", help="Protocol (repeats, seconds); the run's own by default.")
    ] = None,
    device: DeviceOption = "auto",
    threads: Annotated[int, typer.Option("--threads", min=1, max=MOST_THREADS, help="CPU threads.")] = 1,
    out: OutOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Time sampling: latency at batch 1, throughput at the best batch, memory. Keep the machine otherwise idle.

    [bold]Examples[/bold]
    \b
        bench time flow-matching
        bench time gan vae flow-matching
        bench time flow-matching --sampler euler --steps 1,2,4,8
    """
    counts, under = step_counts(steps), Runs(out)
    runs = [run_of(name, dataset, under) for name in chosen]

    from bench import measure

    subjects = []
    for run in runs:
        if run.place is not None:
            _ = run.data  # timing needs no data, but --dataset may not name another data set than the run's
        plans = tuple(plan_of(run.card, run.info.recipe, sampler, count) for count in counts)
        subjects.append(measure.Subject(run.folder, plans))
    protocol = runs[0].tier(tier)
    with shown.working("time sampling", as_json) as progress:
        rows = measure.time_runs(subjects, protocol, progress, device, threads, keep=False, out=out)
    if as_json:
        shown.print_rows(rows)
    else:
        shown.times(rows, protocol.name)
