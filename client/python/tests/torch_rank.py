"""One rank of the distributed tests: `torch_rank.py WHAT RANK COUNT DIRECTORY JSON`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed

import noised
import noised.torch

BLT = noised.BufferedToeplitz.from_rational_approx_to_sqrt_x(3).inverse_as_streaming_matrix()


def model(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """35 parameters: no even number, so that two ranks need padding."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 2, bias=False)).to(dtype)


def local_gradient(step: int, rank: int, length: int, dtype: torch.dtype) -> torch.Tensor:
    """A rank's flat gradient, whose sums are exact in any order."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randint(-64, 64, (length,), generator=generator).to(dtype) / 64


def steps(rank: int, count: int, directory: Path, options: dict[str, Any]) -> None:
    """Reduces gradients, adds this rank's noise, and saves what it has: all of it, or the rest from a checkpoint on."""
    dtype = getattr(torch, options["dtype"])
    module = model(dtype)
    privatizer = noised.torch.ShardPrivatizer(
        module,
        BLT,
        2.0,
        client=options["servers"][rank],
        source=options["source"],
        noise_id=options["noise_id"],
    )
    checkpoint = directory / f"checkpoint-{rank}.pt"
    if options["resume"]:
        privatizer.load_state_dict(torch.load(checkpoint))
    length = len(privatizer.lanes)
    saved = {}
    while privatizer.step < options["steps"]:
        step = privatizer.step
        if step == 3 and not options["resume"]:
            torch.save(privatizer.state_dict(), checkpoint)
        flat = local_gradient(step, rank, length * count, dtype)
        if privatizer.padding:
            flat[-privatizer.padding :] = 0
        part = torch.empty(length, dtype=dtype)
        distributed.reduce_scatter_tensor(part, flat)
        privatizer.add_noise(part)
        saved[step] = part
    session = privatizer.session
    assert session.lanes == privatizer.lanes
    assert session.step_bytes == length * (4 if options["source"] == "gaussian" else dtype.itemsize)
    torch.save(saved, directory / f"parts-{rank}.pt")
    if options["end"]:
        session.delete()


def sessions(rank: int, count: int, directory: Path, options: dict[str, Any]) -> None:
    """A plain session of `noised.torch.shard()`, cut at leaves."""
    shard = noised.torch.shard(cut="leaves")
    assert (shard.index, shard.count, shard.cut) == (rank, count, "leaves")
    group = distributed.new_group([1])
    if rank == 1:
        assert isinstance(group, distributed.ProcessGroup)
        assert noised.torch.shard(group) == noised.Shard(0, 1)
    client = noised.connect(options["servers"][rank])
    tree = {name: torch.empty_like(p) for name, p in model().named_parameters()}
    source = noised.Gaussian(1.0, noise_id=options["noise_id"])
    with client.create_session(BLT, tree, source, shard=noised.torch.shard(cut="leaves")) as session:
        torch.save({0: session.fetch()}, directory / f"parts-{rank}.pt")


def opacus(rank: int, count: int, directory: Path, options: dict[str, Any]) -> None:
    """Opacus' optimizer for data-parallel training, whose noise is that of rank 0."""
    from opacus import GradSampleModule  # noqa: PLC0415
    from opacus.optimizers import DistributedDPOptimizer  # noqa: PLC0415

    module = GradSampleModule(model())
    optimizer = DistributedDPOptimizer(
        torch.optim.SGD(module.parameters(), lr=0.1),
        noise_multiplier=2.0,
        max_grad_norm=1.0,
        expected_batch_size=4,
    )
    noise = noised.torch.replace_opacus_noise(
        optimizer, BLT, client=options["servers"][0], noise_id=options["noise_id"]
    )
    clipped: list[torch.Tensor] = []
    scale_grad = optimizer.scale_grad

    def keep_and_scale() -> None:
        # Where no noise is added, Opacus goes on in the memory of the sum.
        clipped[:] = [p.summed_grad.clone().flatten() for p in optimizer.params]
        scale_grad()

    optimizer.scale_grad = keep_and_scale
    torch.manual_seed(rank)
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.randn(4, 4)).square().mean().backward()
        optimizer.step()
    noisy = torch.cat([p.grad.flatten() for p in optimizer.params])
    torch.save(
        {"summed": torch.cat(clipped), "noisy": noisy, "state": noise.state_dict()},
        directory / f"parts-{rank}.pt",
    )


def main() -> None:
    what, rank, count, directory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{directory}/store-{what}", rank=rank, world_size=count
    )
    {"steps": steps, "sessions": sessions, "opacus": opacus}[what](
        rank, count, directory, json.loads(sys.argv[5])
    )
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
