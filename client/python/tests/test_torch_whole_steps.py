"""A step of `noised.torch` that fails is a step that was not taken: no gradient has its noise, and the noise comes again."""

from __future__ import annotations

import random
import signal
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from test_torch import BLT, KEY, backward, gradients, model, noise_of

import noised
import noised.torch
from noised.errors import InvalidArgumentError
from noised.torch._parameters import check_apart

SOURCES = pytest.mark.parametrize("source", ["gaussian", "privatize"])


class Fragile(torch.Tensor):
    """A tensor that fails where it is written to, as often as it is told to."""

    failures: list[BaseException] = []  # noqa: RUF012  The tests' own.

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("add_", "copy_") and cls.failures and isinstance(args[0], cls):
            raise cls.failures.pop()
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


def fragile(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.as_subclass(Fragile)


@pytest.fixture(autouse=True)
def no_failures() -> Iterator[None]:
    Fragile.failures = []
    yield
    assert Fragile.failures == []


def check_steps(
    client: noised.Client, module: torch.nn.Module, privatizer: noised.torch.Privatizer, start: int, end: int
) -> None:
    """Steps that follow have one noise each: those from `start` on."""
    other = noise_of(client, module)
    for step in range(end):
        noise = other.fetch()
        if step < start:
            continue
        before = backward(module, step)
        privatizer.add_noise()
        for name, gradient in gradients(module).items():
            assert torch.equal(gradient, before[name] + noise[name]), (step, name)


@SOURCES
@pytest.mark.parametrize("last", [True, False], ids=["the last", "in the middle"])
@pytest.mark.parametrize(
    "failure",
    [torch.OutOfMemoryError("none left"), KeyboardInterrupt(), RuntimeError("broken")],
    ids=lambda failure: type(failure).__name__,
)
def test_a_gradient_that_cannot_be_written(
    anywhere: noised.Client, source: Any, failure: BaseException, last: bool
) -> None:
    module = model()
    privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=anywhere, source=source, noise_key=KEY)
    backward(module, 0)
    privatizer.add_noise()
    for _ in range(2):
        before = backward(module, 1)
        parameters = [p for p in module.parameters() if p.grad is not None]
        broken = parameters[-1 if last else 1]
        assert broken.grad is not None
        memory = broken.grad = fragile(broken.grad)
        Fragile.failures = [failure]
        with pytest.raises(type(failure)):
            privatizer.add_noise()
        # Where writing back is interrupted as well, it is done all the same.
        assert privatizer.step == privatizer.session.step == 1
        assert broken.grad is memory
        after = gradients(module)
        assert all(torch.equal(after[name], before[name]) for name in before)
    # The next call gives the same step, also to gradients that are the same.
    check_steps(anywhere, module, privatizer, 1, 4)


@SOURCES
def test_writing_back_is_interrupted(client: noised.Client, source: Any) -> None:
    module = model()
    privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, source=source, noise_key=KEY)
    before = backward(module, 0)
    for parameter in module.parameters():
        assert parameter.grad is not None
        parameter.grad = fragile(parameter.grad)
    # The first write fails, and so do the next three, which put back what was there.
    Fragile.failures = [KeyboardInterrupt() for _ in range(4)]
    with pytest.raises(KeyboardInterrupt):
        privatizer.add_noise()
    after = gradients(module)
    assert all(torch.equal(after[name], before[name]) for name in before)
    check_steps(client, module, privatizer, 0, 3)


@SOURCES
def test_a_gradient_of_inference_mode_is_refused_before_any_is_written(
    client: noised.Client, source: Any
) -> None:
    module = model()
    privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, source=source, noise_key=KEY)
    before = backward(module, 0)
    bias = module.get_parameter("first.bias")
    assert bias.grad is not None
    with torch.inference_mode():
        bias.grad = bias.grad.clone()
    with pytest.raises(
        InvalidArgumentError, match=r"gradients\.first\.bias: is a tensor of torch\.inference"
    ):
        privatizer.add_noise()
    after = gradients(module)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert privatizer.step == 0
    # Inside of it, it may be written to.
    with torch.inference_mode():
        privatizer.add_noise()
    noise = noise_of(client, module).fetch()
    for name, gradient in gradients(module).items():
        assert torch.equal(gradient, before[name] + noise[name])


@SOURCES
def test_gradients_of_zeros_that_get_no_noise_are_taken_away(client: noised.Client, source: Any) -> None:
    module = model()
    privatizer = noised.torch.Privatizer(
        module, BLT, 1.0, client=client, source=source, noise_key=KEY, missing_as_zero=True
    )
    backward(module, 0)
    module.get_parameter("second.bias").grad = None
    weight = module.get_parameter("first.weight")
    assert weight.grad is not None
    weight.grad = fragile(weight.grad)
    Fragile.failures = [MemoryError()]
    with pytest.raises(MemoryError):
        privatizer.add_noise()
    assert module.get_parameter("second.bias").grad is None
    before = gradients(module) | {"second.bias": torch.zeros(3)}
    privatizer.add_noise()
    noise = noise_of(client, module).fetch()
    for name, gradient in gradients(module).items():
        assert torch.equal(gradient, before[name] + noise[name])


@SOURCES
def test_a_shard_is_put_back(client: noised.Client, source: Any) -> None:
    module = model()
    options: Any = {"client": client, "source": source, "noise_key": KEY, "shard": noised.Shard(0, 1)}
    privatizer = noised.torch.ShardPrivatizer(module, BLT, 1.0, **options)
    other = noised.torch.ShardPrivatizer(module, BLT, 1.0, **options)
    part = torch.arange(len(privatizer.lanes), dtype=torch.float32)
    with torch.inference_mode():
        inference = part.clone()
    with pytest.raises(InvalidArgumentError, match="inference_mode"):
        privatizer.add_noise(inference)
    for _ in range(2):
        broken = fragile(part.clone())
        Fragile.failures = [KeyboardInterrupt()]
        with pytest.raises(KeyboardInterrupt):
            privatizer.add_noise(broken)
        assert torch.equal(broken, part)
    assert privatizer.step == 0
    for _ in range(3):
        noisy, expected = part.clone(), part.clone()
        privatizer.add_noise(noisy)
        other.add_noise(expected)
        assert torch.equal(noisy, expected)
        assert not torch.equal(noisy, part)


@SOURCES
def test_a_checkpoint_after_a_failure_is_of_the_step_before(client: noised.Client, source: Any) -> None:
    module = model()
    privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, source=source, noise_key=KEY)
    backward(module, 0)
    privatizer.add_noise()
    backward(module, 1)
    bias = module.get_parameter("first.bias")
    assert bias.grad is not None
    bias.grad = fragile(bias.grad)
    Fragile.failures = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        privatizer.add_noise()
    state = privatizer.state_dict()
    resumed = noised.torch.Privatizer(module, BLT, 1.0, client=client, source=source, noise_key=KEY)
    resumed.load_state_dict(state)
    assert resumed.step == 1
    check_steps(client, module, resumed, 1, 3)


@contextmanager
def interrupts(seed: int, longest: float) -> Iterator[None]:
    """A Ctrl-C at any moment of the block, once, within so many seconds."""
    delay = random.Random(seed).uniform(1e-5, longest)

    def interrupt(_: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, delay)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@SOURCES
def test_a_ctrl_c_at_any_moment(client: noised.Client, source: Any) -> None:
    """Whatever a Ctrl-C hits, the gradients have the noise of the step if and only if the step has been counted."""
    module = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(12)))
    privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, source=source, noise_key=KEY)
    other = noise_of(client, module)
    step, noise = 0, other.fetch()
    outcomes = set()
    # About as long as a step takes, however busy the machine is.
    longest = 3e-3
    for seed in range(150):
        before = backward(module, step)
        try:
            with interrupts(seed, longest):
                privatizer.add_noise()
                outcomes.add("taken")
        except KeyboardInterrupt:
            outcomes.add("interrupted")
        assert torch.is_grad_enabled()
        is_taken = privatizer.step == step + 1
        longest *= 0.95 if is_taken else 1.05
        assert is_taken or privatizer.step == step
        for name, gradient in gradients(module).items():
            expected = before[name] + noise[name] if is_taken else before[name]
            assert torch.equal(gradient, expected), (seed, name, is_taken)
        if is_taken:
            step, noise = step + 1, other.fetch()
    assert outcomes == {"taken", "interrupted"}
    assert step > 0


class TestMemory:
    """Gradients that share memory would get each other's noise, or lose it."""

    def refuse(self, client: noised.Client, shapes: list[Any], found: list[torch.Tensor], match: str) -> None:
        for source in ("gaussian", "privatize"):
            parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
            pairs = [(f"p{i}", parameter) for i, parameter in enumerate(parameters)]
            privatizer = noised.torch.Privatizer(pairs, BLT, 1.0, client=client, source=source)
            before = [gradient.clone() for gradient in found]
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient
            with pytest.raises(InvalidArgumentError, match=match):
                privatizer.add_noise()
            assert all(map(torch.equal, before, found))
            assert privatizer.step == 0

    def test_shared(self, client: noised.Client) -> None:
        flat = torch.randn(64)
        one = torch.randn(3, 3)
        square = flat[:36].view(6, 6)
        shares = (
            r"gradients\.p1: shares memory with gradients\.p0|gradients\.p0: shares memory with gradients\.p1"
        )
        for first, second in (
            (one, one),
            (one, one.view(9)),
            (one, one.T),
            (one[0], one[:, 0]),
            (flat[:10], flat[9:20]),
            (flat[5:20], flat[:6]),
            (flat[:40], flat[20:25]),
            (flat[::2], flat[30:31]),
            (square[:, :3], square[:, 2:]),
            (one.detach(), one.detach()),
        ):
            self.refuse(client, [first.shape, second.shape], [first, second], shares)
        alone = torch.randn(4)
        self.refuse(client, [4, 10, 10], [alone, flat[:10], flat[8:18]], "shares memory")

    def test_a_gradient_that_overlaps_itself(self, client: noised.Client) -> None:
        base = torch.randn(16)
        for view in (
            base.as_strided((3, 3), (1, 1)),
            base.as_strided((4, 3), (2, 1)),
            base[:1].expand(5),
            base[:4].expand(2, 4),
            base.as_strided((2, 2, 2), (3, 1, 1)),
        ):
            self.refuse(client, [view.shape], [view], "share memory")
            part = noised.torch.ShardPrivatizer(
                [("w", torch.nn.Parameter(torch.zeros(4)))], BLT, 1.0, client=client, shard=noised.Shard(0, 1)
            )
        with pytest.raises(InvalidArgumentError, match="share memory"):
            part.add_noise(base[:1].expand(4))

    def test_neighbours_do_not(self, client: noised.Client) -> None:
        flat = torch.randn(64)
        square = torch.randn(6, 6)
        views = [
            flat[:10],
            flat[10:20].view(2, 5),
            flat[20:60:2],
            flat[21:60:2],
            square[:, :3],
            square[:, 3:],
            torch.zeros(0),
            flat[20:20],
            torch.randn(2, 3).T,
            torch.randn(1, 4, 1).expand(1, 4, 1),
            torch.randn(12).as_strided((2, 2), (3, 2)),
        ]
        parameters = [torch.nn.Parameter(torch.zeros(view.shape)) for view in views]
        pairs = [(f"p{i}", parameter) for i, parameter in enumerate(parameters) if parameter.numel()]
        privatizer = noised.torch.Privatizer(pairs, BLT, 1.0, client=client, noise_key=KEY)
        before = [view.clone() for view in views]
        for parameter, view in zip(parameters, views, strict=True):
            parameter.grad = view
        privatizer.add_noise()
        tree = OrderedDict(pairs)
        noise = client.create_session(BLT, tree, noised.Gaussian(1.0, noise_key=KEY)).fetch()
        for i, (view, was) in enumerate(zip(views, before, strict=True)):
            if view.numel():
                assert torch.equal(view, was + noise[f"p{i}"].detach())

    def test_devices_whose_pointers_are_no_addresses(self) -> None:
        # As on Apple's GPUs: every pointer is the same here, and says nothing of where a tensor lies.
        flat = torch.empty(64, device="meta")
        assert flat.data_ptr() == torch.empty(3, device="meta").data_ptr() == 0
        apart = {
            "whole": torch.empty(100, device="meta"),
            "other": torch.empty(3, 4, device="meta"),
            "first": flat[:10],
            "second": flat[10:20].view(2, 5),
            "even": flat[20::2],
            "odd": flat[21::2],
            "here": torch.empty(64),
            "short": torch.empty(7, device="meta", dtype=torch.bfloat16),
        }
        check_apart(apart)
        for shared in (flat[9:11], flat[:1], flat[63:], flat[19:21], flat.view(8, 8)):
            with pytest.raises(InvalidArgumentError, match="shares memory with"):
                check_apart({**apart, "shared": shared})
        with pytest.raises(InvalidArgumentError, match="shares memory with"):
            check_apart({"one": apart["whole"], "same": apart["whole"]})


@SOURCES
def test_a_stale_gradient_of_a_frozen_parameter_stays_as_it_is(client: noised.Client, source: Any) -> None:
    module = model()
    privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, source=source, noise_key=KEY)
    other = noise_of(client, module)
    bias = module.get_parameter("first.bias")
    for step in range(5):
        stale = bias.grad
        before = backward(module, step)
        is_frozen = step in (1, 2)
        bias.requires_grad_(not is_frozen)
        if is_frozen:
            # What the last step has left.
            assert stale is not None
            bias.grad, before["first.bias"] = stale, stale.clone()
        privatizer.add_noise()
        noise = other.fetch()
        for name, gradient in gradients(module).items():
            is_stale = is_frozen and name == "first.bias"
            expected = before[name] if is_stale else before[name] + noise[name]
            assert torch.equal(gradient, expected), (step, name)
