"""The training loop: bit-exact resume, averaging, warm-up, clipping, skipping, divergence, order, FLOP counts.

Run as a script it trains one of the models below and prints each step, for the test that kills it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench import flops
from bench.lab import step_cost
from bench.loop import Average, Loop, Order, train
from bench.progress import Progress
from paradigms.contract import Trainable, Update
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.errors import BadInput
from reports.layout import LOG, PREPARED, STATE

SPACE = Space((4,))
COORDS = ("toy", "recipe", 0)


@dataclass(frozen=True)
class Config:
    batch: int = 8
    lr: float = 1e-2


class Plain(Trainable):
    """One network with batch normalisation and dropout (which draws from the global generator)."""

    def __init__(self, config=Config(), space=SPACE, width=8, parents=None):
        super().__init__(config, space, width, parents or {})
        self.net = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.2), nn.Linear(width, 4))

    def optimizers(self):
        return {self.net: torch.optim.AdamW(self.net.parameters(), lr=self.config.lr, fused=True)}

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        eps = noise.normal(*batch.x.shape)
        loss = (self.net(batch.x + eps) - batch.x).square().mean()
        yield Update(self.net, loss, {"noise": eps.square().mean()}, {"lr": self.config.lr * (1 - progress)}, clip=1.0)


class Coupled(Trainable):
    """Two optimizers, the second loss sees the first's step; a target moved after each step; data made by `prepare`."""

    def __init__(self, config=Config(), space=SPACE, width=8, parents=None):
        super().__init__(config, space, width, parents or {})
        self.generator, self.critic = (
            nn.Linear(4, 4),
            nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, 1)),
        )
        self.target = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("scale", torch.ones(()))

    def prepare(self, data: Data, noise: Noise) -> Data:
        self.scale.copy_(data.x.std())
        return Data(data.x / self.scale + 0.1 * noise.normal(*data.x.shape), data.y, data.space)

    def optimizers(self):
        return {
            self.critic: torch.optim.AdamW(self.critic.parameters(), lr=1e-2, betas=(0.0, 0.99), fused=True),
            self.generator: torch.optim.SGD(self.generator.parameters(), lr=1e-2, momentum=0.9),
        }

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        z = noise.normal(*batch.x.shape)
        real, fake = batch.x.clone().requires_grad_(), self.generator(z).detach()
        scores = self.critic(real)
        (gradient,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
        loss = F.softplus(self.critic(fake) - scores).mean() + gradient.square().sum(1).mean()
        yield Update(self.critic, loss)
        loss = F.softplus(-self.critic(self.generator(z))).mean() + (self.generator(z) - self.target(z)).square().mean()
        yield Update(self.generator, loss, after=self.move)

    @torch.no_grad()
    def move(self) -> None:
        for target, source in zip(self.target.parameters(), self.generator.parameters()):
            target.lerp_(source, 0.05)


MODELS = {"plain": Plain, "coupled": Coupled}


def toy(n: int = 30) -> Data:
    return Data(torch.randn(n, 4, generator=torch.Generator().manual_seed(0)), None, SPACE)


def fresh(kind: str) -> Trainable:
    torch.default_generator.manual_seed(1)
    return MODELS[kind]()


def digest(trained) -> str:
    state = sorted(
        [*((f"ema.{n}", t) for n, t in trained.ema.items()), *((f"raw.{n}", t) for n, t in trained.raw.items())]
    )
    return hashlib.sha256(b"".join(n.encode() + t.contiguous().numpy().tobytes() for n, t in state)).hexdigest()


class Stop(Progress):
    """Asks the training to stop once `at` steps are done."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def update(self, stage, done, total, **facts):
        if done == self.at:
            raise KeyboardInterrupt


class Say(Progress):
    """Prints the steps, and waits to be killed before the last."""

    def update(self, stage, done, total, **facts):
        print(done, flush=True)
        if done == total - 1:
            sys.stdin.read()


def go(
    kind: str,
    folder: Path,
    progress: Progress | None = None,
    steps: int = 40,
    every: float = 1e9,
    model=None,
    keep=(),
    of="",
):
    return train(
        model or fresh(kind),
        toy(),
        batch=8,
        steps=steps,
        coords=COORDS,
        folder=folder,
        progress=progress or Progress(),
        checkpoint_seconds=every,
        keep=keep,
        of=of,
    )


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------------------- resume


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["coupled", "plain"])
def test_killed_and_resumed_has_the_bits_of_an_uninterrupted_run(kind, tmp_path):
    expected = digest(go(kind, tmp_path / "whole", steps=300))
    killed = tmp_path / "killed"
    command = [sys.executable, __file__, kind, str(killed)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=Path(__file__).parents[1]) as process:
        for line in process.stdout:
            if int(line) == 57:
                process.kill()
                break
        process.stdout.close()
        assert process.wait() == -9
    resumed = go(kind, killed, steps=300)
    assert 0 < resumed.resumed[0] < 300
    assert digest(resumed) == expected


@pytest.mark.parametrize("kind", MODELS)
def test_stopped_many_times_is_the_same_run(kind, tmp_path):
    whole = go(kind, tmp_path / "whole")
    for at in (1, 2, 3, 11, 12, 39):
        with pytest.raises(KeyboardInterrupt):
            go(kind, tmp_path / "parts", Stop(at))
    parts = go(kind, tmp_path / "parts")
    assert parts.resumed == (1, 2, 3, 11, 12, 39)
    assert digest(parts) == digest(whole)

    def lines(folder):
        return [
            {k: v for k, v in json.loads(x).items() if k != "seconds"} for x in (folder / LOG).read_text().splitlines()
        ]

    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_what_is_kept_on_the_way_is_the_average_of_that_step_also_after_a_resume(tmp_path):
    kept: list[dict[int, dict[str, torch.Tensor]]] = []
    for name, stop in (("whole", None), ("stopped", Stop(10))):
        if stop is not None:
            with pytest.raises(KeyboardInterrupt):
                go("plain", tmp_path / name, stop, keep={10, 20, 40})
        trained = go("plain", tmp_path / name, keep={10, 20, 40})
        assert list(trained.kept) == [10, 20], "not the last ones"
        kept.append(trained.kept)
    for step, expected in kept[0].items():
        assert all(torch.equal(kept[1][step][name], t) for name, t in expected.items())
        assert not torch.equal(expected["net.0.weight"], trained.ema["net.0.weight"])
    # By hand: the loop stopped where it stands.
    by_hand = Loop(fresh("plain"), toy(), 8, 40, COORDS)
    for k in range(20):
        by_hand.step(k)
    assert all(torch.equal(t, kept[0][20][name]) for name, t in by_hand.average.state_dict().items())


def test_resume_needs_every_part_of_the_checkpoint(tmp_path, monkeypatch):
    """The equality above would notice a lost average, optimizer state or buffer."""
    expected = digest(go("plain", tmp_path / "whole"))
    restore = Loop.restore
    for lost in ("average", "optimizers", "model"):
        folder = tmp_path / lost
        with pytest.raises(KeyboardInterrupt):
            go("plain", folder, Stop(20))

        def without(self, state, lost=lost):
            restore(self, {**state, lost: self.state()[lost]})

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "restore", without)
            assert digest(go("plain", folder)) != expected


def test_prepared_data_is_read_back_not_made_again(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        go("coupled", tmp_path, Stop(5))
    assert (tmp_path / PREPARED).exists()
    monkeypatch.setattr(Coupled, "prepare", lambda *_: pytest.fail("prepared twice"))
    go("coupled", tmp_path)


@pytest.mark.parametrize("where", [0, 40, -1])
def test_a_damaged_checkpoint_is_refused(where, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go("plain", tmp_path, Stop(5))
    data = bytearray((tmp_path / STATE).read_bytes())
    data[where] ^= 1
    (tmp_path / STATE).write_bytes(data)
    with pytest.raises(BadInput, match=r"state\.pt is damaged"):
        go("plain", tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go("plain", tmp_path, Stop(5))
    with pytest.raises(BadInput, match="does not fit"):
        go("plain", tmp_path, model=Plain(width=9))


def test_the_checkpoint_survives_a_crash_while_saving(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        go("plain", tmp_path, Stop(5))
    before = (tmp_path / STATE).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(BadInput, match="No space left"):
            go("plain", tmp_path, every=0.0)
    assert (tmp_path / STATE).read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))
    assert not list(tmp_path.glob(".*.tmp"))


def test_training_leaves_the_global_generator_alone(tmp_path):
    model = fresh("plain")
    before = torch.default_generator.get_state()
    go("plain", tmp_path, model=model)
    assert torch.equal(torch.default_generator.get_state(), before)


def test_log_lines_that_are_damaged_are_dropped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go("plain", tmp_path, Stop(20))
    with open(tmp_path / LOG, "a") as file:
        file.write('{"step": 21, "los\n[1]\n{"a": 1}\n{"step": "x"}\n')
    with open(tmp_path / LOG, "ab") as file:
        file.write(b"\xff\xfe")
    go("plain", tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert steps == list(range(1, 41))


# ------------------------------------------------------------------------------------------------------------ step


def test_the_average_is_the_power_function_of_the_paper():
    """Half of the weight lies on the last 5 % of the steps; the weights of step s count like s^g."""
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, [model.weight])
    steps = 2000
    with torch.no_grad():
        for t in range(1, steps + 1):
            model.weight.fill_(1.0 if t > 0.95 * steps else 0.0)
            average.update(t)
    assert average.mean[0].item() == pytest.approx(0.5, abs=2e-3)


def test_batch_statistics_are_averaged_and_targets_are_not(tmp_path):
    trained = go("plain", tmp_path / "plain")
    assert not torch.equal(trained.ema["net.1.running_mean"], trained.raw["net.1.running_mean"])
    assert torch.equal(trained.ema["net.1.num_batches_tracked"], trained.raw["net.1.num_batches_tracked"])
    trained = go("coupled", tmp_path / "coupled")
    assert not torch.equal(trained.ema["generator.weight"], trained.raw["generator.weight"])
    assert torch.equal(trained.ema["target.weight"], trained.raw["target.weight"])
    assert trained.raw["scale"] == pytest.approx(toy().x.std().item())


class Probe(Trainable):
    """A weight that follows a constant gradient, with a chosen update."""

    def __init__(self, **fields):
        super().__init__(Config(), SPACE, 1, {})
        self.weight = nn.Parameter(torch.zeros(4))
        self.fields, self.gradient = fields, torch.tensor([3.0, 0.0, 0.0, 4.0])
        self.rates: list[float] = []
        self.after_calls = 0

    def optimizers(self):
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0)
        return {self: self.optimizer}

    def updates(self, batch, progress, noise):
        def after():
            self.after_calls += 1

        yield Update(self, (self.weight * self.gradient).sum(), **{"after": after, **self.fields})
        self.rates.append(self.optimizer.param_groups[0]["lr"])


def loop(model: Trainable, steps: int = 100) -> Loop:
    return Loop(model, toy(), 8, steps, COORDS)


def test_warm_up_scales_the_rate_that_the_paradigm_asks_for():
    model = Probe(settings={"lr": 0.5})
    run = loop(model, steps=200)
    for k in range(6):
        run.step(k)
    assert model.rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])


def test_settings_last_one_step_and_must_exist():
    model = Probe(settings={"momentum": 0.9})
    run = loop(model)
    run.step(0)
    model.fields = {}
    run.step(1)
    assert model.optimizer.param_groups[0]["momentum"] == 0
    model.fields = {"settings": {"beta": 1.0}}
    with pytest.raises(KeyError, match="beta"):
        run.step(2)


def test_clipping_scales_the_gradient_to_the_norm():
    model = Probe(clip=1.0)
    loop(model, steps=1).step(0)
    assert model.weight.detach() == pytest.approx(-torch.tensor([0.6, 0.0, 0.0, 0.8]), abs=1e-5)
    model = Probe(clip=6.0)
    loop(model, steps=1).step(0)
    assert torch.equal(model.weight.detach(), -model.gradient)


def test_a_step_above_the_limit_is_skipped_and_counted():
    model = Probe(skip_above=4.9)
    run = loop(model, steps=1)
    run.step(0)
    assert run.skipped == 1
    assert run.means()["skipped"] == 1
    assert model.after_calls == 0
    assert torch.equal(model.weight.detach(), torch.zeros(4))


class Often(Probe):
    """Three updates of one module in a step, as a critic has."""

    def updates(self, batch, progress, noise):
        for k in range(3):
            yield Update(
                self, (self.weight * self.gradient).sum(), {"k": torch.tensor(float(k)), "once": torch.ones(())}
            )


def test_the_log_averages_over_updates_also_where_a_step_has_several():
    run = loop(Often(), steps=100)
    for k in range(2):
        run.step(k)
    means = run.means()
    assert (means["k"], means["once"], means["grad_norm"]) == pytest.approx((1.0, 1.0, 5.0))
    assert run.means() == {"lr": means["lr"]}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_stops_before_the_weights_are_touched(bad, tmp_path):
    model = Probe()

    class At(Progress):
        def update(self, stage, done, total, **facts):
            if done == 3:
                model.gradient[1] = bad
            self.weight = model.weight.detach().clone()

    progress = At()
    trained = go("", tmp_path, progress, model=model)
    assert trained.status == "diverged"
    assert trained.steps == 3
    assert trained.reason.startswith("step 4 of 40: ")
    assert torch.equal(model.weight.detach(), progress.weight)
    assert model.weight.isfinite().all()


def test_an_update_moves_only_its_module():
    model = fresh("coupled")
    run = loop(model)
    moved = {}
    updates = model.updates

    def watched(*args):
        for update in updates(*args):
            before = {n: p.detach().clone() for n, p in model.named_parameters()}
            yield update
            moved[update.module] = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}

    model.updates = watched
    run.step(0)
    assert {n.split(".")[0] for n in moved[model.critic]} == {"critic"}
    assert {n.split(".")[0] for n in moved[model.generator]} == {"generator", "target"}


def test_the_log_names_modules_only_where_there_are_several(tmp_path):
    go("plain", tmp_path / "plain", steps=250)
    lines = [json.loads(line) for line in (tmp_path / "plain" / LOG).read_text().splitlines()]
    assert 100 <= len(lines) <= 101
    assert [lines[0]["step"], lines[-1]["step"], lines[-1]["images"]] == [1, 250, 2000]
    assert set(lines[-1]) == {"step", "images", "seconds", "loss", "grad_norm", "noise", "lr"}
    go("coupled", tmp_path / "coupled")
    line = json.loads((tmp_path / "coupled" / LOG).read_text().splitlines()[-1])
    assert {"loss.critic", "loss.generator", "grad_norm.critic", "lr.generator"} <= set(line)


# ----------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("batch", [1, 7, 10, 25])
def test_every_example_is_seen_once_before_any_is_seen_again(batch):
    order = Order(10, batch, ("order",), torch.device("cpu"))
    seen = torch.cat([order(k) for k in range(20)])
    for epoch in seen.split(10)[: len(seen) // 10]:
        assert sorted(epoch.tolist()) == list(range(10))
    assert not torch.equal(seen[:10], seen[10:20])


def test_order_is_a_function_of_the_step():
    first, second = (Order(10, 7, ("order",), torch.device("cpu")) for _ in range(2))
    forwards = [first(k) for k in range(9)]
    assert all(torch.equal(second(k), forwards[k]) for k in reversed(range(9)))


# ----------------------------------------------------------------------------------------------------------- flops


def test_flops_of_linear_and_convolution_equal_hand_counts():
    x = torch.randn(3, 2, 8, 8)
    with flops.FlopCount() as count:
        nn.Conv2d(2, 5, 3, padding=1)(x)
        nn.Linear(64, 7)(x.flatten(2))
    assert count.total == 2 * 3 * 64 * 5 * 2 * 9 + 2 * (3 * 2) * 64 * 7


def test_flops_of_attention_equal_a_hand_count_on_a_cpu():
    q = torch.randn(2, 4, 16, 8, requires_grad=True)
    product = 2 * 2 * 4 * 16 * 16 * 8
    with flops.FlopCount() as count:
        out = F.scaled_dot_product_attention(q, q, q)
    assert count.total == 2 * product
    with flops.FlopCount() as count:
        out.sum().backward()
    assert count.total == 5 * product  # the scores again, and two products for each of the two


def test_flops_are_counted_under_inference_mode():
    with torch.inference_mode(), flops.FlopCount() as count:
        nn.Linear(5, 7)(torch.randn(2, 3, 5))
    assert count.total == 2 * 2 * 3 * 5 * 7


class Penalised(Trainable):
    """A convolutional critic with a gradient penalty on the data (R1), which is a double backward."""

    def __init__(self):
        super().__init__(Config(), Space((2, 8, 8)), 1, {})
        self.net = nn.Conv2d(2, 4, 3, padding=1)

    def optimizers(self):
        return {self.net: torch.optim.AdamW(self.net.parameters())}

    def updates(self, batch, progress, noise):
        x = batch.x.clone().requires_grad_()
        scores = F.silu(self.net(x)).sum()
        (gradient,) = torch.autograd.grad(scores, x, create_graph=True)
        yield Update(self.net, scores + gradient.square().sum())


def test_flops_of_a_gradient_penalty_equal_a_hand_count():
    # forward; gradient to the input; through that gradient: to its own incoming gradient and to the weight;
    # through the forward: to the weight
    one = 2 * 3 * 64 * 4 * 2 * 9
    model = Penalised()
    assert flops.of_step(model, Batch(torch.randn(3, 2, 8, 8)), 0.0, Noise("x")) == 5 * one


@pytest.mark.parametrize("kind", MODELS)
def test_counting_a_step_leaves_nothing_behind(kind):
    model = fresh(kind).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    generator = torch.default_generator.get_state()
    assert flops.of_training_step(model, toy().batch(torch.arange(8)), Noise("x")) > 0
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.default_generator.get_state(), generator)


def test_flops_of_a_network_step_equal_a_hand_count():
    # Two linear layers: forward, gradients to both weights, gradient to the hidden layer.
    model = fresh("plain").train()
    counted = flops.of_step(model, toy().batch(torch.arange(8)), 0.0, Noise("x"))
    assert counted == 2 * 8 * (4 * 8 + 8 * 4) * 2 + 2 * 8 * 8 * 4


if __name__ == "__main__":
    torch.set_num_threads(1)
    go(sys.argv[1], Path(sys.argv[2]), Say(), steps=300, every=0.0)


# --------------------------------------------------------------------------------------------------------- symptoms


class Ill(Plain):
    """Says what it was told, or nothing."""

    def symptom(self, terms):
        return repr(sorted(terms.items())) if terms["noise"] > 0 else None


def test_symptoms_come_of_the_last_tenth_of_the_log(tmp_path: Path) -> None:
    whole = go("plain", tmp_path / "a", steps=400, model=made(Ill))
    lines = [json.loads(line) for line in (tmp_path / "a" / LOG).read_text().splitlines()]
    last = [line for line in lines if line["step"] > 360]
    assert len(last) == 10
    told = dict(ast.literal_eval(whole.symptom))
    assert set(told) == {"loss", "grad_norm", "noise", "lr"}
    assert told["noise"] == pytest.approx(sum(line["noise"] for line in last) / 10)
    assert go("plain", tmp_path / "b", steps=20).symptom == ""

    with pytest.raises(KeyboardInterrupt):
        go("plain", tmp_path / "c", Stop(371), steps=400, model=made(Ill))
    resumed = go("plain", tmp_path / "c", steps=400, model=made(Ill))
    assert resumed.resumed == (371,)
    assert resumed.symptom == whole.symptom, "the lines before the stop count too"
    assert go("plain", tmp_path / "a", steps=400, model=made(Ill)).symptom == whole.symptom, "and after the end"


def test_what_diverges_may_have_a_symptom_too(tmp_path: Path) -> None:
    class Bursting(Ill):
        def updates(self, batch, progress, noise):
            for update in super().updates(batch, progress, noise):
                yield update._replace(loss=update.loss * (math.inf if progress > 0.5 else 1))

    found = go("plain", tmp_path / "a", steps=40, model=made(Bursting))
    assert (found.status, found.steps) == ("diverged", 21)
    assert "noise" in found.symptom
    found = go("plain", tmp_path / "b", steps=1, model=made(type("Never", (Ill,), {"updates": _nan})))
    assert (found.status, found.symptom) == ("diverged", ""), "no line, no symptom"


def _nan(self, batch, progress, noise):
    yield Update(self.net, self.net(batch.x).sum() * math.nan)


def made(kind: type[Plain]) -> Plain:
    torch.default_generator.manual_seed(1)
    return kind()


def test_what_a_step_costs_beside_another(capsys):
    """One line each, equal batches; a parent of a parent is built too, and an unknown recipe is one line."""
    assert step_cost.main(["flow-matching", "consistency", "--dataset", "ring8", "--batch", "32", "--rounds", "2"]) == 0
    *_, head, _, first, second = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("| recipe |")
    assert first.startswith("| flow-matching |")
    assert first.endswith("| 1.00 (1.00-1.00) |")
    assert second.startswith("| consistency |")
    assert first.split("|")[3] == second.split("|")[3] == " 32 "
    assert step_cost.main(["gun"]) == 2
    assert "did you mean 'gan'" in capsys.readouterr().err
