"""Models as other libraries leave them: compiled, lazy, wrapped, with gradients in other places."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from test_torch import BLT, KEY, backward, gradients, model, noise_of

import noised
import noised.torch
from noised.errors import InvalidArgumentError

SOURCES = pytest.mark.parametrize("source", ["gaussian", "privatize"])


def compiled(module: torch.nn.Module) -> torch.nn.Module:
    """As torch.compile wraps it: nothing is compiled before it is called."""
    wrapped = torch.compile(module)
    assert isinstance(wrapped, torch.nn.Module)
    assert next(iter(dict(wrapped.named_parameters()))).startswith("_orig_mod.")
    return wrapped


@SOURCES
@pytest.mark.parametrize("first", ["plain", "compiled"])
def test_a_checkpoint_with_and_without_compile(client: noised.Client, source: Any, first: str) -> None:
    module = model()
    order = [module, compiled(module)] if first == "plain" else [compiled(module), module]
    other = noise_of(client, module)
    state: dict[str, Any] | None = None
    for part in (*order, order[0]):
        privatizer = noised.torch.Privatizer(part, BLT, 1.0, client=client, source=source, noise_key=KEY)
        if state is not None:
            privatizer.load_state_dict(state)
        for _ in range(2):
            before = backward(module, privatizer.step)
            privatizer.add_noise()
            noise = other.fetch()
            for name, gradient in gradients(module).items():
                assert torch.equal(gradient, before[name] + noise[name]), name
        state = privatizer.state_dict()
    assert state is not None
    assert privatizer.step == 6


def test_a_part_that_is_compiled(client: noised.Client) -> None:
    module = model()
    state = noised.torch.Privatizer(module, BLT, 1.0, client=client).state_dict()
    module.second = compiled(module.second)  # type: ignore[arg-type]
    assert "second._orig_mod.weight" in dict(module.named_parameters())
    privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client)
    privatizer.load_state_dict(state)
    backward(module, 0)
    privatizer.add_noise()


@SOURCES
def test_a_given_session_of_the_other(client: noised.Client, source: Any) -> None:
    module = model()
    kind = noised.Gaussian if source == "gaussian" else noised.Privatize
    for made_of, used_with in ((module, compiled(module)), (compiled(module), module)):
        tree = OrderedDict(made_of.named_parameters())
        with client.create_session(BLT, tree, kind(1.0, noise_key=KEY)) as session:
            privatizer = noised.torch.Privatizer(used_with, session=session)
            before = backward(module, 0)
            privatizer.add_noise()
            noise = noise_of(client, module).fetch()
            for name, gradient in gradients(module).items():
                assert torch.equal(gradient, before[name] + noise[name])


def test_another_wrapper_is_named(client: noised.Client) -> None:
    module = model()
    state = noised.torch.Privatizer(module, BLT, 1.0, client=client).state_dict()
    wrapped = torch.nn.ModuleDict({"module": module})
    privatizer = noised.torch.Privatizer(wrapped, BLT, 1.0, client=client)
    with pytest.raises(InvalidArgumentError, match=r"give the module that it wraps, such as model\.module"):
        privatizer.load_state_dict(state)


@SOURCES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_megatrons_main_grad(client: noised.Client, source: Any, dtype: torch.dtype) -> None:
    module = model(dtype)
    parameters = dict(module.named_parameters())
    # As Megatron has it: parts of one buffer, in float32.
    buffer = torch.zeros(sum(p.numel() for p in parameters.values()))
    start = 0
    for parameter in parameters.values():
        parameter.main_grad = buffer[start : start + parameter.numel()].view(parameter.shape)  # type: ignore[attr-defined]
        start += parameter.numel()
    privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, source=source, noise_key=KEY)
    other = noise_of(client, module)
    for step in range(3):
        before = buffer.normal_(generator=torch.Generator().manual_seed(step)).clone()
        privatizer.add_noise()
        noise = torch.cat([leaf.flatten() for leaf in other.fetch().values()])
        assert torch.equal(buffer, before + noise)
        assert all(parameter.grad is None for parameter in parameters.values())
    parameters["first.bias"].grad = torch.zeros(2, dtype=dtype)
    kept = buffer.clone()
    with pytest.raises(InvalidArgumentError, match=r"first\.bias: is in p\.grad and in p\.main_grad"):
        privatizer.add_noise()
    assert torch.equal(buffer, kept)
    assert privatizer.step == 3


@pytest.mark.parametrize("kind", ["privatizer", "shard", "optimizer"])
def test_lazy_modules(client: noised.Client, kind: str) -> None:
    module = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.Linear(3, 2))

    def make() -> Any:
        if kind == "shard":
            return noised.torch.ShardPrivatizer(module, BLT, 1.0, client=client, shard=noised.Shard(0, 1))
        given = torch.optim.SGD(module.parameters(), lr=0.1) if kind == "optimizer" else module
        return noised.torch.Privatizer(given, BLT, 1.0, client=client)

    with pytest.raises(InvalidArgumentError, match=r"is of a lazy module.*send a batch through the model"):
        make()
    module(torch.zeros(1, 4))
    assert len(make().session.lanes) == 4 * 3 + 3 + 3 * 2 + 2


def test_a_design_is_taken_for_its_noising_matrix(client: noised.Client) -> None:
    design = noised.optimize("buffered_toeplitz", 16, buffers=1)
    module = model()
    found = []
    for matrix in (design, design.noising_matrix):
        before = backward(module, 0)
        noised.torch.Privatizer(module, matrix, 1.0, client=client, noise_key=KEY).add_noise()
        found.append(gradients(module))
    assert all(torch.equal(found[0][name], found[1][name]) for name in before)
    shard: Any = {"client": client, "noise_key": KEY, "shard": noised.Shard(0, 1)}
    parts = [torch.zeros(26), torch.zeros(26)]
    noised.torch.ShardPrivatizer(module, design, 1.0, **shard).add_noise(parts[0])
    noised.torch.ShardPrivatizer(module, design.noising_matrix, 1.0, **shard).add_noise(parts[1])
    assert torch.equal(*parts)
    recommendation: Any = noised.recommend(8, max_planes=1)
    with pytest.raises(InvalidArgumentError, match=r"noising_matrix: .*\.best is a design"):
        noised.torch.Privatizer(module, recommendation, 1.0, client=client)
    strategy: Any = design
    with pytest.raises(InvalidArgumentError, match=r"strategy: .*such as its \.strategy, found Design"):
        noised.sensitivity(strategy, 16)
