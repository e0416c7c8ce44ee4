"""What `zero_grad()` gives up is in no later release, whatever was raised before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping, DPPerLayerOptimizer
from opacus.utils.batch_memory_manager import BatchMemoryManager
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from test_torch_opacus import BATCH, BLT, CLIP, KEY, LOSS, MULTIPLIER, Trainer, noise_of, same

import noised
import noised.torch
from noised.errors import InvalidArgumentError


class BrokenError(Exception):
    """What the tests raise."""


class GhostTrainer(Trainer):
    """The same with ghost clipping."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
        self.module = GradSampleModuleFastGradientClipping(
            layers, max_grad_norm=CLIP, use_ghost_clipping=True
        )
        self.optimizer = DPOptimizerFastGradientClipping(
            torch.optim.SGD(self.module.parameters(), lr=0.1, momentum=0.9),
            noise_multiplier=MULTIPLIER,
            max_grad_norm=CLIP,
            expected_batch_size=BATCH,
        )
        self.loss = DPLossFastGradientClipping(self.module, self.optimizer, torch.nn.CrossEntropyLoss())

    def backward(self, step: int, part: slice = slice(None)) -> None:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(BATCH, 6, generator=generator)
        labels = torch.randint(0, 3, (BATCH,), generator=generator)
        self.loss(self.module(images[part]), labels[part]).backward()


TRAINERS: dict[str, Callable[[], Trainer]] = {
    "flat": Trainer,
    "per layer": lambda: Trainer(DPPerLayerOptimizer, [CLIP / 2] * 4),
    "ghost": GhostTrainer,
}


Mend = Callable[[], object]
#: What breaks the next step, and gives what makes it and what mends it.
Break = Callable[[Trainer, Any], tuple[Callable[[], object], Mend]]


def raising(*_: Any) -> Any:
    raise BrokenError


def breaks(name: str, of: Callable[[Trainer, Any], Any]) -> Break:
    """A break of a method: it raises."""

    def apply(trainer: Trainer, handle: Any) -> tuple[Callable[[], object], Mend]:
        target = of(trainer, handle)
        original = getattr(target, name)
        setattr(target, name, raising)
        return trainer.optimizer.step, lambda: setattr(target, name, original)

    return apply


def sets(name: str, value: Any) -> Break:
    """A break of an attribute of the optimizer."""

    def apply(trainer: Trainer, handle: Any) -> tuple[Callable[[], object], Mend]:
        original = getattr(trainer.optimizer, name)
        setattr(trainer.optimizer, name, value)
        return trainer.optimizer.step, lambda: setattr(trainer.optimizer, name, original)

    return apply


def in_the_closure(trainer: Trainer, handle: Any) -> tuple[Callable[[], object], Mend]:
    return lambda: trainer.optimizer.step(raising), lambda: None


def at_the_last_gradient(trainer: Trainer, handle: Any) -> tuple[Callable[[], object], Mend]:
    # The other parameters are summed before it is found out.
    last = trainer.optimizer.params[-1]
    if isinstance(trainer, GhostTrainer):
        last.grad = None
    else:
        last.grad_sample._processed = True
    return trainer.optimizer.step, lambda: None


def without_a_gradient(trainer: Trainer, handle: Any) -> tuple[Callable[[], object], Mend]:
    last = trainer.optimizer.params[-1]
    last.grad_sample = last.grad = None
    return trainer.optimizer.step, lambda: None


def at_a_parameter(trainer: Trainer, handle: Any) -> tuple[Callable[[], object], Mend]:
    known = handle._trainable.parameters
    handle._trainable.parameters = known[1:]

    def mend() -> None:
        handle._trainable.parameters = known

    return trainer.optimizer.step, mend


BREAKS: dict[str, Break] = {
    "closure": in_the_closure,
    "no gradient": without_a_gradient,
    "last gradient": at_the_last_gradient,
    "noise multiplier": sets("noise_multiplier", MULTIPLIER / 2),
    "no multiplier": sets("noise_multiplier", float("nan")),
    "clipping norm": sets("max_grad_norm", CLIP / 2),
    "parameter": at_a_parameter,
    "noise": breaks("_fetch", lambda trainer, handle: handle.session),
    "after the noise": breaks("scale_grad", lambda trainer, handle: trainer.optimizer),
    "hook": breaks("step_hook", lambda trainer, handle: trainer.optimizer),
    "optimizer": breaks("step", lambda trainer, handle: trainer.optimizer.original_optimizer),
}
#: Those after which the noise of the step has been used.
AFTER = ("after the noise", "hook", "optimizer")


def alone(kind: str, trainer: Trainer, step: int, part: slice) -> list[torch.Tensor]:
    """The sum of a batch that nothing was before."""
    fresh = TRAINERS[kind]()
    fresh.module.load_state_dict(trainer.module.state_dict())
    fresh.optimizer.zero_grad()
    fresh.backward(step, part)
    (fresh.optimizer.accumulate if kind == "ghost" else fresh.optimizer.clip_and_accumulate)()
    return [p.summed_grad for p in fresh.optimizer.params]


@pytest.fixture(params=TRAINERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("parts", [0, 1, 2], ids=["whole", "second part", "third part"])
@pytest.mark.parametrize("broken", BREAKS)
def test_a_batch_whose_step_raised(client: noised.Client, kind: str, broken: str, parts: int) -> None:
    trainer = TRAINERS[kind]()
    optimizer = trainer.optimizer
    handle = noised.torch.replace_opacus_noise(optimizer, BLT, client=client, noise_key=KEY)
    fetch = noise_of(client, optimizer)
    trainer.step(0)
    fetch()
    # A loader says in advance which steps are to be skipped: those of this batch, of another that is taken, and of the next.
    signals = [True] * parts + [False, True, False, True]
    for signal in signals:
        optimizer.signal_skip_step(do_skip=signal)
    for number in range(parts):
        optimizer.zero_grad()
        trainer.backward(1, slice(number, number + 1))
        optimizer.step()
    optimizer.zero_grad()
    trainer.backward(1, slice(parts, parts + 5))
    before = trainer.parameters()
    step, mend = BREAKS[broken](trainer, handle)
    with pytest.raises(Exception):  # noqa: B017, PT011  Opacus and PyTorch raise what they like.
        step()
    if broken not in AFTER and kind != "ghost":
        # The sum without noise is where no optimizer takes it from; in ghost clipping, it is made there.
        sums = [(p.grad, p.summed_grad) for p in optimizer.params]
        assert not any(g is not None and s is not None and torch.equal(g, s) for g, s in sums)
    mend()
    optimizer.zero_grad()
    assert all(p.summed_grad is None for p in optimizer.params)
    assert same(before, trainer.parameters())
    expected = [torch.zeros_like(p) for p in optimizer.params]
    for part in (slice(0, 1), slice(1, 2)):
        expected = [e + g for e, g in zip(expected, alone(kind, trainer, 2, part), strict=True)]
        optimizer.zero_grad()
        trainer.backward(2, part)
        optimizer.step()
        assert same(before, trainer.parameters()) == (part.stop == 1)
    if broken in AFTER:
        fetch()
    assert same([p.summed_grad for p in optimizer.params], expected)
    assert same(trainer.gradients(), [(g + z) / BATCH for g, z in zip(expected, fetch(), strict=True)])
    assert optimizer._step_skip_queue == [True]
    assert handle.step == 2 + (broken in AFTER)


@pytest.mark.parametrize("broken", [name for name in BREAKS if "gradient" not in name and name not in AFTER])
def test_or_the_step_is_made_again(client: noised.Client, kind: str, broken: str) -> None:
    trainer = TRAINERS[kind]()
    optimizer = trainer.optimizer
    handle = noised.torch.replace_opacus_noise(optimizer, BLT, client=client, noise_key=KEY)
    handle.session  # noqa: B018  It is made.
    optimizer.zero_grad()
    trainer.backward(0)
    for _ in range(2):
        step, mend = BREAKS[broken](trainer, handle)
        with pytest.raises((BrokenError, InvalidArgumentError)):
            step()
        mend()
    optimizer.step()
    # It is summed once.
    summed = alone(kind, TRAINERS[kind](), 0, slice(None))
    noise = noise_of(client, optimizer)()
    assert same(trainer.gradients(), [(g + z) / BATCH for g, z in zip(summed, noise, strict=True)])
    assert handle.step == 1


def test_what_is_summed_in_part_is_not_summed_again(client: noised.Client, kind: str) -> None:
    trainer = TRAINERS[kind]()
    handle = noised.torch.replace_opacus_noise(trainer.optimizer, BLT, client=client)
    trainer.optimizer.zero_grad()
    trainer.backward(0)
    last = trainer.optimizer.params[-1]
    gradient = last.grad
    step, _ = at_the_last_gradient(trainer, handle)
    with pytest.raises(Exception):  # noqa: B017, PT011
        step()
    last.grad = gradient
    if kind != "ghost":
        del last.grad_sample._processed
    with pytest.raises(InvalidArgumentError, match=r"zero_grad\(\) gives the batch up"):
        step()
    trainer.step(1)
    assert same(
        [p.summed_grad for p in trainer.optimizer.params], alone(kind, TRAINERS[kind](), 1, slice(None))
    )
    assert handle.step == 1


@pytest.mark.parametrize("failing", [0, 1, 2, 3, 5, 8])
def test_with_a_loader_that_splits_batches(client: noised.Client, failing: int) -> None:
    """A physical batch whose backward pass fails is given up with what was summed before, and no batch takes from another."""
    trainer = Trainer()
    optimizer = trainer.optimizer
    handle = noised.torch.replace_opacus_noise(optimizer, BLT, client=client)
    data = torch.utils.data.TensorDataset(torch.randn(24, 6), torch.randint(0, 3, (24,)))
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH)
    released: list[list[int]] = []
    inside: list[int] = []
    optimizer.attach_step_hook(lambda _: released.append(inside.copy()))
    with BatchMemoryManager(data_loader=loader, max_physical_batch_size=3, optimizer=optimizer) as batches:
        for number, (images, labels) in enumerate(batches):
            optimizer.zero_grad()
            if released and inside == released[-1]:
                inside.clear()
            LOSS(trainer.module(images), labels).backward()
            if number == failing:
                # As after a failure behind the backward pass, which the loop catches.
                inside.clear()
                continue
            inside.append(number)
            is_last = not optimizer._check_skip_next_step(pop_next=False)
            counted = handle.step
            optimizer.step()
            assert handle.step == counted + is_last
    whole = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    expected = [[n for n in batch if n > failing] if failing in batch else batch for batch in whole]
    # Where the last part fails, there is no step for what is left.
    assert released == [batch for batch in expected if batch]
    assert optimizer._step_skip_queue in ([], [False])


@pytest.mark.parametrize("name", ["max_grad_norm", "noise_multiplier"])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_part_that_is_clipped_otherwise_is_refused(client: noised.Client, name: str, factor: float) -> None:
    """Also where what was changed is put back before the noise is due."""
    trainer = Trainer()
    optimizer = trainer.optimizer
    handle = noised.torch.replace_opacus_noise(optimizer, BLT, client=client, noise_key=KEY)
    original = getattr(optimizer, name)
    other = {"max_grad_norm": "noise_multiplier", "noise_multiplier": "max_grad_norm"}[name]
    for compensated in (False, True):
        optimizer.zero_grad()
        trainer.backward(0)
        optimizer.signal_skip_step(do_skip=True)
        setattr(optimizer, name, original * factor)
        if compensated:
            # With the same standard deviation.
            setattr(optimizer, other, getattr(optimizer, other) / factor)
        with pytest.raises(InvalidArgumentError, match="must keep"):
            optimizer.step()
        setattr(optimizer, name, original)
        if compensated:
            setattr(optimizer, other, getattr(optimizer, other) * factor)
        optimizer.step()
    assert handle.step == 0
    trainer.step(1)
    parts = [alone("flat", Trainer(), step, slice(None)) for step in (0, 0, 1)]
    assert same(
        [p.summed_grad for p in optimizer.params], [a + b + c for a, b, c in zip(*parts, strict=True)]
    )
    assert handle.step == 1


def test_norms_of_layers_are_kept(client: noised.Client) -> None:
    trainer = TRAINERS["per layer"]()
    noised.torch.replace_opacus_noise(trainer.optimizer, BLT, client=client)
    trainer.optimizer.max_grad_norms = [10 * norm for norm in trainer.optimizer.max_grad_norms]
    with pytest.raises(InvalidArgumentError, match="must keep max_grad_norm"):
        trainer.step(0)


def test_schedulers_still_wrap_the_step(client: noised.Client) -> None:
    trainer = Trainer()
    noised.torch.replace_opacus_noise(trainer.optimizer, BLT, client=client)
    scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 1, gamma=0.5)
    before = trainer.parameters()
    trainer.step(0)
    scheduler.step()
    assert not same(before, trainer.parameters())
    assert trainer.optimizer.param_groups[0]["lr"] == 0.05
