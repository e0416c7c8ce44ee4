"""`noised.torch.replace_opacus_noise` against the real optimizers of Opacus and a real server."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Server
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import (
    AdaClipDPOptimizer,
    DPOptimizer,
    DPOptimizerFastGradientClipping,
    DPPerLayerOptimizer,
)
from opacus.schedulers import ExponentialNoise
from opacus.utils.batch_memory_manager import BatchMemoryManager
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from proxy import Proxy

import noised
import noised.torch
from noised.errors import ConnectionBrokenError, InvalidArgumentError, UnavailableError

KEY = bytes(range(64, 96))
BLT = noised.BufferedToeplitz.from_rational_approx_to_sqrt_x(3).inverse_as_streaming_matrix()
MULTIPLIER, CLIP, BATCH = 2.0, 0.75, 8
LOSS = torch.nn.CrossEntropyLoss()


class Trainer:
    """A small model with an optimizer of Opacus, the same each time."""

    def __init__(self, kind: type[DPOptimizer] = DPOptimizer, clip: Any = CLIP, **arguments: Any) -> None:
        torch.manual_seed(0)
        self.module = GradSampleModule(
            torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
        )
        self.optimizer = kind(
            torch.optim.SGD(self.module.parameters(), lr=0.1, momentum=0.9),
            noise_multiplier=MULTIPLIER,
            max_grad_norm=clip,
            expected_batch_size=BATCH,
            **arguments,
        )

    def backward(self, step: int, part: slice = slice(None)) -> None:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(BATCH, 6, generator=generator)
        labels = torch.randint(0, 3, (BATCH,), generator=generator)
        LOSS(self.module(images[part]), labels[part]).backward()

    def step(self, step: int) -> None:
        self.optimizer.zero_grad()
        self.backward(step)
        self.optimizer.step()

    def gradients(self) -> list[torch.Tensor]:
        return [p.grad.clone() for p in self.optimizer.params]

    def parameters(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.optimizer.params]


def noise_of(
    client: noised.Client, optimizer: DPOptimizer, stddev: float = MULTIPLIER * CLIP
) -> Callable[[], Any]:
    """Fetches, step by step, the noise of a second session of the same key."""
    tree = OrderedDict((f"0/{i}", torch.empty_like(p)) for i, p in enumerate(optimizer.params))
    session = client.create_session(BLT, tree, noised.Gaussian(stddev, noise_key=KEY))
    return lambda: list(session.fetch().values())


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


@pytest.mark.parametrize("source", ["gaussian", "privatize"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_gradient_is_the_clipped_sum_and_the_noise(
    client: noised.Client, source: Any, reduction: str
) -> None:
    trainer = Trainer(loss_reduction=reduction)
    noised.torch.replace_opacus_noise(trainer.optimizer, BLT, client=client, source=source, noise_key=KEY)
    fetch = noise_of(client, trainer.optimizer)
    for step in range(4):
        trainer.step(step)
        summed = [p.summed_grad for p in trainer.optimizer.params]
        expected = [g + z for g, z in zip(summed, fetch(), strict=True)]
        if reduction == "mean":
            expected = [g / BATCH for g in expected]
        assert same(trainer.gradients(), expected)


def test_all_else_is_as_opacus_has_it(client: noised.Client) -> None:
    # Without noise on either side, every parameter of a run must be the same.
    plain, replaced = Trainer(), Trainer()
    for trainer in (plain, replaced):
        trainer.optimizer.noise_multiplier = 0.0
    noised.torch.replace_opacus_noise(replaced.optimizer, BLT, client=client)
    for step in range(5):
        plain.step(step)
        replaced.step(step)
    assert same(plain.parameters(), replaced.parameters())
    assert not same(plain.parameters(), Trainer().parameters())


def test_a_virtual_batch_has_one_noise(client: noised.Client) -> None:
    whole, parts = Trainer(), Trainer()
    handles = [
        noised.torch.replace_opacus_noise(trainer.optimizer, BLT, client=client, noise_key=KEY)
        for trainer in (whole, parts)
    ]
    fetch = noise_of(client, parts.optimizer)
    for step in range(3):
        whole.step(step)
        for part in (slice(0, 3), slice(3, 6), slice(6, 8)):
            parts.optimizer.zero_grad()
            parts.backward(step, part)
            parts.optimizer.signal_skip_step(do_skip=part.stop < BATCH)
            before = parts.parameters()
            parts.optimizer.step()
            assert same(before, parts.parameters()) == (part.stop < BATCH)
        summed = [p.summed_grad for p in parts.optimizer.params]
        assert same(parts.gradients(), [(g + z) / BATCH for g, z in zip(summed, fetch(), strict=True)])
        assert [handle.step for handle in handles] == [step + 1, step + 1]
    for left, right in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(left, right)


def test_batch_memory_manager(client: noised.Client) -> None:
    trainer = Trainer()
    handle = noised.torch.replace_opacus_noise(trainer.optimizer, BLT, client=client)
    data = torch.utils.data.TensorDataset(torch.randn(24, 6), torch.randint(0, 3, (24,)))
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH)
    physical = 0
    with BatchMemoryManager(
        data_loader=loader, max_physical_batch_size=3, optimizer=trainer.optimizer
    ) as batches:
        for images, labels in batches:
            trainer.optimizer.zero_grad()
            LOSS(trainer.module(images), labels).backward()
            trainer.optimizer.step()
            physical += 1
    assert (physical, handle.step) == (9, 3)


def test_ghost_clipping(client: noised.Client) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    module = GradSampleModuleFastGradientClipping(layers, max_grad_norm=CLIP, use_ghost_clipping=True)
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(module.parameters(), lr=0.1),
        noise_multiplier=MULTIPLIER,
        max_grad_norm=CLIP,
        expected_batch_size=BATCH,
    )
    loss = DPLossFastGradientClipping(module, optimizer, torch.nn.CrossEntropyLoss())
    noised.torch.replace_opacus_noise(optimizer, BLT, client=client, noise_key=KEY)
    fetch = noise_of(client, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        loss(module(torch.randn(BATCH, 6)), torch.randint(0, 3, (BATCH,))).backward()
        optimizer.step()
        expected = [(p.summed_grad + z) / BATCH for p, z in zip(optimizer.params, fetch(), strict=True)]
        assert same([p.grad for p in optimizer.params], expected)


def test_per_layer_clipping(client: noised.Client) -> None:
    trainer = Trainer(DPPerLayerOptimizer, [0.5, 0.5, 0.5, 0.5])
    noised.torch.replace_opacus_noise(trainer.optimizer, BLT, client=client, noise_key=KEY)
    trainer.step(0)
    noise = noise_of(client, trainer.optimizer, MULTIPLIER * 1.0)()
    summed = [p.summed_grad for p in trainer.optimizer.params]
    assert same(trainer.gradients(), [(g + z) / BATCH for g, z in zip(summed, noise, strict=True)])


def test_a_checkpoint_goes_on_bit_for_bit(client: noised.Client) -> None:
    trainer = Trainer()
    handle = noised.torch.replace_opacus_noise(trainer.optimizer, BLT, client=client)
    for step in range(6):
        if step == 3:
            states = trainer.module.state_dict(), trainer.optimizer.state_dict(), handle.state_dict()
            states[0].update({name: value.clone() for name, value in states[0].items()})
            momentum = {k: v["momentum_buffer"].clone() for k, v in states[1]["state"].items()}
        trainer.step(step)
    resumed = Trainer()
    resumed.module.load_state_dict(states[0])
    for key, value in momentum.items():
        states[1]["state"][key]["momentum_buffer"] = value
    resumed.optimizer.load_state_dict(states[1])
    again = noised.torch.replace_opacus_noise(resumed.optimizer, BLT)
    again.load_state_dict(states[2])
    for step in range(again.step, 6):
        resumed.step(step)
    assert same(trainer.parameters(), resumed.parameters())


class TestFailure:
    """A network that is cut in the middle of a step."""

    def trainer(self, network: Proxy, source: Any) -> tuple[Trainer, Any, noised.Client]:
        trainer = Trainer()
        client = noised.connect(network.target, patience=1.0)
        handle = noised.torch.replace_opacus_noise(
            trainer.optimizer, BLT, client=client, source=source, noise_key=KEY, fetch_ahead=False
        )
        trainer.step(0)
        return trainer, handle, client

    @pytest.mark.parametrize("source", ["gaussian", "privatize"])
    def test_the_step_is_made_again(self, shared_server: Server, source: Any) -> None:
        network = Proxy(shared_server.target)
        trainer, handle, client = self.trainer(network, source)
        optimizer = trainer.optimizer
        fetch = noise_of(client, optimizer)
        fetch()
        # A virtual batch, of which the last part is the one that fails.
        for part in (slice(0, 5), slice(5, 8)):
            optimizer.zero_grad()
            trainer.backward(1, part)
            optimizer.signal_skip_step(do_skip=part.stop < BATCH)
            if part.stop < BATCH:
                optimizer.step()
        # As a loader that is ahead has said already of the next batch.
        optimizer.signal_skip_step(do_skip=True)
        before, summed = trainer.parameters(), None
        network.cut()
        for _ in range(2):
            with pytest.raises((UnavailableError, ConnectionBrokenError)):
                optimizer.step()
            found = [p.summed_grad.clone() for p in optimizer.params]
            # It is not summed twice, and nothing without noise is where an optimizer would take it from.
            assert summed is None or same(summed, found)
            assert not any(
                p.grad is not None and torch.equal(p.grad, p.summed_grad) for p in optimizer.params
            )
            summed = found
        network.mend()
        assert same(before, trainer.parameters())
        optimizer.step()
        assert summed is not None
        assert same(trainer.gradients(), [(g + z) / BATCH for g, z in zip(summed, fetch(), strict=True)])
        assert not same(before, trainer.parameters())
        assert handle.step == 2
        assert optimizer._step_skip_queue == [True]

    def test_or_another_batch_is_taken(self, shared_server: Server) -> None:
        network = Proxy(shared_server.target)
        trainer, handle, client = self.trainer(network, "gaussian")
        fetch = noise_of(client, trainer.optimizer)
        fetch()
        network.cut()
        with pytest.raises((UnavailableError, ConnectionBrokenError)):
            trainer.step(1)
        network.mend()
        # zero_grad() gives the batch up: the next has its own gradients alone, and the noise that is due.
        trainer.optimizer.zero_grad()
        trainer.backward(2)
        alone = Trainer()
        alone.module.load_state_dict(trainer.module.state_dict())
        alone.backward(2)
        alone.optimizer.clip_and_accumulate()
        trainer.optimizer.step()
        summed = [p.summed_grad for p in alone.optimizer.params]
        assert same(summed, [p.summed_grad for p in trainer.optimizer.params])
        assert same(trainer.gradients(), [(g + z) / BATCH for g, z in zip(summed, fetch(), strict=True)])
        assert handle.step == 2

    def test_or_all_parts_of_a_batch_are_given_up(self, shared_server: Server) -> None:
        network = Proxy(shared_server.target)
        trainer, handle, client = self.trainer(network, "gaussian")
        fetch = noise_of(client, trainer.optimizer)
        fetch()
        trainer.optimizer.zero_grad()
        trainer.backward(0)
        trainer.optimizer.signal_skip_step(do_skip=True)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        trainer.backward(1)
        trainer.optimizer.signal_skip_step(do_skip=False)
        network.cut()
        with pytest.raises((UnavailableError, ConnectionBrokenError)):
            trainer.optimizer.step()
        network.mend()
        trainer.optimizer.zero_grad()
        trainer.backward(2)
        alone = Trainer()
        alone.module.load_state_dict(trainer.module.state_dict())
        alone.backward(2)
        alone.optimizer.clip_and_accumulate()
        trainer.optimizer.signal_skip_step(do_skip=False)
        trainer.optimizer.step()
        assert same(
            [p.summed_grad for p in alone.optimizer.params], [p.summed_grad for p in trainer.optimizer.params]
        )
        assert handle.step == 2


class TestRefused:
    """What cannot have its noise replaced, and steps that would not be what they say."""

    def test_optimizers(self, client: noised.Client) -> None:
        module = torch.nn.Linear(2, 2)
        with pytest.raises(InvalidArgumentError, match="must be a DPOptimizer of Opacus, found SGD"):
            noised.torch.replace_opacus_noise(
                torch.optim.SGD(module.parameters(), lr=0.1), BLT, client=client
            )
        adaptive = AdaClipDPOptimizer(
            torch.optim.SGD(GradSampleModule(module).parameters(), lr=0.1),
            noise_multiplier=1.0,
            target_unclipped_quantile=0.5,
            clipbound_learning_rate=0.2,
            max_clipbound=10.0,
            min_clipbound=0.1,
            unclipped_num_std=5.0,
            max_grad_norm=1.0,
            expected_batch_size=4,
        )
        with pytest.raises(InvalidArgumentError, match="AdaClipDPOptimizer, which has a noise of its own"):
            noised.torch.replace_opacus_noise(adaptive, BLT, client=client)
        trainer = Trainer()
        noised.torch.replace_opacus_noise(trainer.optimizer, BLT, client=client)
        with pytest.raises(InvalidArgumentError, match="replaced already"):
            noised.torch.replace_opacus_noise(trainer.optimizer, BLT, client=client)

    def test_a_noise_that_is_scheduled(self, client: noised.Client) -> None:
        trainer = Trainer()
        handle = noised.torch.replace_opacus_noise(trainer.optimizer, BLT, client=client)
        trainer.step(0)
        ExponentialNoise(trainer.optimizer, gamma=0.5).step()
        with pytest.raises(InvalidArgumentError, match=r"at 1\.5, found 0\.75"):
            trainer.step(1)
        assert handle.step == 1

    def test_gradients_that_were_used(self, client: noised.Client) -> None:
        trainer = Trainer()
        handle = noised.torch.replace_opacus_noise(trainer.optimizer, BLT, client=client)
        trainer.step(0)
        with pytest.raises(ValueError, match="zero_grad"):
            trainer.optimizer.step()
        trainer.module.zero_grad()
        for p in trainer.optimizer.params:
            p.grad_sample = None
        trainer.backward(1)
        with pytest.raises(InvalidArgumentError, match="used before"):
            trainer.optimizer.step()
        assert handle.step == 1

    def test_parameters_that_are_thawed(self, client: noised.Client) -> None:
        torch.manual_seed(0)
        layers = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))
        optimizer = DPOptimizer(
            torch.optim.SGD(layers.parameters(), lr=0.1),
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            expected_batch_size=BATCH,
        )
        layers[0].bias.requires_grad_(False)
        noised.torch.replace_opacus_noise(optimizer, BLT, client=client)
        layers[0].bias.requires_grad_(True)
        for p in optimizer.params:
            p.grad_sample = torch.ones(BATCH, *p.shape)
            p.summed_grad = None
        with pytest.raises(InvalidArgumentError, match=r"params\[1\]: would get no noise"):
            optimizer.step()
