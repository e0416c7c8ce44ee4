"""Noise is refused where the gradients that it is added to have too little range for it, however it comes to them."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import pytest
import torch
from test_torch import BLT, backward, gradients, model

import noised
import noised.torch
from noised.errors import InvalidArgumentError

SOURCES = pytest.mark.parametrize("source", ["gaussian", "privatize"])
#: Of independent noise, what is just too large for each format, and the format.
TOO_LARGE = [(torch.float16, 4400.0, "f16"), (torch.bfloat16, 2.25e37, "bf16")]


def add_noise(
    module: torch.nn.Module, kind: str, client: noised.Client, *arguments: Any, **options: Any
) -> Any:
    """One step, by one of the ways there are."""
    if kind == "shard":
        shard = noised.torch.ShardPrivatizer(
            module, *arguments, client=client, shard=noised.Shard(0, 1), **options
        )
        shard.add_noise(torch.cat([gradient.flatten() for gradient in gradients(module).values()]))
    else:
        noised.torch.Privatizer(module, *arguments, client=client, **options).add_noise()


@SOURCES
@pytest.mark.parametrize("kind", ["privatizer", "shard"])
@pytest.mark.parametrize("too_large", TOO_LARGE, ids=lambda row: row[2])
def test_it_is_the_gradients_that_must_have_the_range(
    client: noised.Client, source: Any, kind: str, too_large: tuple[torch.dtype, float, str]
) -> None:
    dtype, stddev, name = too_large
    module = model(dtype)
    before = backward(module, 0)
    sessions = len(client.list_sessions())
    with pytest.raises(
        InvalidArgumentError, match=rf"source\.stddev: must be at most .* for answers in {name}"
    ):
        add_noise(module, kind, client, noised.identity(), stddev, source=source)
    after = gradients(module)
    assert all(torch.equal(after[path], before[path]) for path in before)
    assert len(client.list_sessions()) == sessions
    # Wider gradients have it.
    wide = model()
    backward(wide, 0)
    add_noise(wide, kind, client, noised.identity(), min(stddev, 2e37), source=source)


@pytest.mark.parametrize("options", [{}, {"precision": "float64"}, {"horizon": 1}])
@pytest.mark.parametrize("matrix", [noised.identity(), BLT], ids=["identity", "BLT"])
def test_the_largest_that_is_told_is_finite(client: noised.Client, matrix: Any, options: Any) -> None:
    told = []
    for source in ("gaussian", "privatize"):
        module = torch.nn.Linear(300, 300).to(torch.float16)
        backward(module, 0)
        with pytest.raises(InvalidArgumentError) as refused:
            add_noise(module, "privatizer", client, matrix, 3e4, source=source, **options)
        found = re.search(r"at most (\S+) for", str(refused.value))
        assert found is not None
        told.append(float(found[1]))
        privatizer = noised.torch.Privatizer(
            module, matrix, told[-1], client=client, source=source, **options
        )
        for _ in range(options.get("horizon", 3)):
            backward(module, 0)
            privatizer.add_noise()
            assert all(gradient.isfinite().all() for gradient in gradients(module).values())
    assert told[0] == told[1]


@pytest.mark.parametrize(("dtype", "stddev", "name"), TOO_LARGE)
def test_of_a_given_session_as_well(
    client: noised.Client, dtype: torch.dtype, stddev: float, name: str
) -> None:
    module = model(dtype)
    tree = OrderedDict(module.named_parameters())
    # Answers in float32 are larger than the gradients can be. These are two sessions that somebody may want for himself.
    wide: list[noised.Gaussian | noised.Privatize] = [
        noised.Gaussian(stddev),
        noised.Privatize(stddev, answer_dtype="float32"),
    ]
    for source in wide:
        with client.create_session(noised.identity(), tree, source) as session:
            with pytest.raises(InvalidArgumentError, match=rf"must be at most .* for answers in {name}"):
                noised.torch.Privatizer(module, session=session)
            assert session.step == 0


def test_a_wider_main_grad_has_the_range(client: noised.Client) -> None:
    module = model(torch.float16)
    for parameter in module.parameters():
        parameter.main_grad = torch.zeros(parameter.shape)  # type: ignore[attr-defined]
    noised.torch.Privatizer(module, noised.identity(), 1e5, client=client).add_noise()
    main: Any = module.get_parameter("first.bias")
    assert main.main_grad.abs().max() > 0
    shard = noised.Shard(0, 1)
    with pytest.raises(InvalidArgumentError, match="for answers in f16"):
        noised.torch.ShardPrivatizer(model(), noised.identity(), 1e5, dtype=torch.float16, shard=shard)
