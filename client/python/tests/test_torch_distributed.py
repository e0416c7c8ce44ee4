"""Two real ranks under `torch.distributed`, each with its part of the noise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Server
from torch_rank import BLT, local_gradient, model

import noised
import noised.torch
from noised.errors import FingerprintMismatchError, InvalidArgumentError

RANKS = 2
STEPS = 6


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Three servers with one master key: one for each rank, and one for the whole."""
    found = [Server(tmp_path_factory.mktemp("server")) for _ in range(3)]
    yield found
    for server in found:
        server.kill()


def run(what: str, directory: Path, **options: Any) -> list[Any]:
    """Runs the ranks, and gives what each of them saved."""
    (directory / f"store-{what}").unlink(missing_ok=True)
    program = str(Path(__file__).with_name("torch_rank.py"))
    # Ranks speak to one another on this machine alone.
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    arguments = [str(RANKS), str(directory), json.dumps(options)]
    processes = [
        subprocess.Popen([sys.executable, program, what, str(rank), *arguments], env=environment)
        for rank in range(RANKS)
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0] * RANKS
    finally:
        for process in processes:
            process.kill()
    return [torch.load(directory / f"parts-{rank}.pt") for rank in range(RANKS)]


def whole_of(
    server: Server, noise_id: str, dtype: torch.dtype, source: Any = "gaussian"
) -> list[torch.Tensor]:
    """What one process has that holds all of the gradient."""
    privatizer = noised.torch.ShardPrivatizer(
        model(dtype),
        BLT,
        2.0,
        client=server.target,
        source=source,
        noise_id=noise_id,
        shard=noised.Shard(0, 1),
        pad_to=RANKS,
    )
    length = len(privatizer.lanes)
    steps = []
    with privatizer:
        for step in range(STEPS):
            flat = sum(local_gradient(step, rank, length, dtype).float() for rank in range(RANKS))
            assert isinstance(flat, torch.Tensor)
            flat = flat.to(dtype)
            flat[length - privatizer.padding :] = 0
            privatizer.add_noise(flat)
            steps.append(flat)
    return steps


@pytest.mark.parametrize("count", [1, 2], ids=["one server", "two servers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_parts_are_the_whole_bit_for_bit(
    servers: list[Server], tmp_path: Path, count: int, dtype: torch.dtype
) -> None:
    noise_id = str(uuid.uuid4())
    targets = [servers[rank % count].target for rank in range(RANKS)]
    parts = run(
        "steps",
        tmp_path,
        servers=targets,
        source="gaussian",
        noise_id=noise_id,
        dtype=str(dtype).removeprefix("torch."),
        steps=STEPS,
        resume=False,
        end=True,
    )
    whole = whole_of(servers[2], noise_id, dtype)
    for step in range(STEPS):
        assert torch.equal(torch.cat([part[step] for part in parts]), whole[step]), step
    assert not torch.equal(whole[0], whole[1])


def test_gradients_are_sent_as_well_and_ranks_resume(servers: list[Server], tmp_path: Path) -> None:
    noise_id = str(uuid.uuid4())
    options = {
        "servers": [server.target for server in servers[:RANKS]],
        "source": "privatize",
        "noise_id": noise_id,
        "dtype": "float32",
        "steps": STEPS,
    }
    first = run("steps", tmp_path, **options, resume=False, end=False)
    # New processes, from the checkpoint of step 3 on.
    again = run("steps", tmp_path, **options, resume=True, end=True)
    whole = whole_of(servers[2], noise_id, torch.float32, "privatize")
    for step in range(STEPS):
        assert torch.equal(torch.cat([part[step] for part in first]), whole[step])
        if step >= 3:
            assert torch.equal(torch.cat([part[step] for part in again]), whole[step])
    assert sorted(again[0]) == [3, 4, 5]


def test_plain_sessions_cut_at_leaves(servers: list[Server], tmp_path: Path) -> None:
    noise_id = str(uuid.uuid4())
    parts = run(
        "sessions", tmp_path, servers=[server.target for server in servers[:RANKS]], noise_id=noise_id
    )
    tree = {name: torch.empty_like(p) for name, p in model().named_parameters()}
    with noised.connect(servers[2].target).create_session(
        BLT, tree, noised.Gaussian(1.0, noise_id=noise_id)
    ) as session:
        whole = session.fetch()
    assert torch.equal(
        torch.cat([part[0] for part in parts]), torch.cat([whole[n].flatten() for n in sorted(whole)])
    )


def test_opacus_adds_the_noise_of_one_rank(servers: list[Server], tmp_path: Path) -> None:
    pytest.importorskip("opacus")
    noise_id = str(uuid.uuid4())
    parts = run("opacus", tmp_path, servers=[servers[0].target], noise_id=noise_id)
    tree = OrderedDict((f"0/{i}", torch.empty_like(p)) for i, p in enumerate(model().parameters()))
    with noised.connect(servers[2].target).create_session(
        BLT, tree, noised.Gaussian(2.0, noise_id=noise_id)
    ) as session:
        noise = torch.cat([values.flatten() for values in [session.fetch() for _ in range(3)][-1].values()])
    assert torch.equal(parts[0]["noisy"], parts[1]["noisy"])
    # Each rank divides by its batch before they are summed, and the sum is divided by their number.
    expected = ((parts[0]["summed"] + noise) / 4 + parts[1]["summed"] / 4) / RANKS
    assert torch.equal(parts[0]["noisy"], expected)
    assert parts[0]["state"]["noised"] == 1
    assert parts[1]["state"] == {}


class TestRefused:
    """What is no shard, or another one."""

    def test_shards(self, client: noised.Client) -> None:
        with pytest.raises(InvalidArgumentError, match="init_process_group"):
            noised.torch.shard()
        with pytest.raises(InvalidArgumentError, match="pad_to"):
            noised.torch.ShardPrivatizer(model(), BLT, 1.0, client=client, shard=noised.Shard(0, 2), pad_to=3)
        with pytest.raises(InvalidArgumentError, match="must be lanes"):
            noised.torch.ShardPrivatizer(
                model(), BLT, 1.0, client=client, shard=noised.Shard(0, 2, cut="leaves")
            )
        mixed = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).bfloat16()])
        with pytest.raises(InvalidArgumentError, match="dtype: must be given"):
            noised.torch.ShardPrivatizer(mixed, BLT, 1.0, client=client, shard=noised.Shard(0, 2))
        noised.torch.ShardPrivatizer(
            mixed, BLT, 1.0, client=client, shard=noised.Shard(0, 2), dtype=torch.float32
        )

    def test_gradients(self, client: noised.Client) -> None:
        privatizer = noised.torch.ShardPrivatizer(model(), BLT, 1.0, client=client, shard=noised.Shard(1, 3))
        assert (privatizer.lanes, privatizer.padding) == (range(12, 24), 1)
        for gradient in (torch.zeros(11), torch.zeros(2, 6), torch.zeros(12, dtype=torch.float64)):
            with pytest.raises(InvalidArgumentError, match="gradient"):
                privatizer.add_noise(gradient)
        # A view of memory that is not contiguous is written to where it lies.
        memory = torch.zeros(12, 2)
        privatizer.add_noise(memory[:, 1])
        assert (memory[:, 1] != 0).all()
        assert (memory[:, 0] == 0).all()

    def test_another_rank_s_checkpoint(self, client: noised.Client) -> None:
        first, second = (
            noised.torch.ShardPrivatizer(model(), BLT, 1.0, client=client, shard=noised.Shard(rank, 2))
            for rank in range(2)
        )
        with pytest.raises(FingerprintMismatchError, match="another shard: 0 of 2, here 1 of 2"):
            second.load_state_dict(first.state_dict())
