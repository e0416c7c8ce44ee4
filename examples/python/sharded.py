"""Two ranks train one model, each with its part of the noise.

    python examples/python/sharded.py

Each rank clips the gradients of its half of a batch. `reduce_scatter` leaves it the sum over the ranks of its half of the
flat gradient; it fetches the noise for that half alone, takes the step on its half of the parameters, and `all_gather` gives
every rank the whole again. No rank ever holds the noise of the other.

Both ask for the noise of one `noise_id`, whose key the server derives from its master key. So the halves are one noise: at
the end, one process trains the same with the whole of it, and the parameters must be the same, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from digits import Digits, Setup, load, mechanism, server
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from train_torch import accuracy, network, put_clipped_sum

import noised
from noised.torch import ShardPrivatizer, shard

RANKS = 2


@dataclass(frozen=True)
class Job:
    """What every process is told. No key is in it.

    Attributes:
        setup: The run.
        noising_matrix: `C^-1`, as JSON.
        stddev: Of the noise before it is correlated.
        target: Where the server is.
        noise_id: The noise.
        directory: Where the ranks meet, and leave what they have trained.
        digits: What is trained on.
    """

    setup: Setup
    noising_matrix: str
    stddev: float
    target: str
    noise_id: str
    directory: Path
    digits: Digits

    def privatizer(self, model: torch.nn.Module, part: noised.Shard, again: bool = False) -> ShardPrivatizer:
        """The noise of a part of the flat gradient, whose length is made a multiple of the number of ranks."""
        return ShardPrivatizer(
            model,
            noised.StreamingMatrix.from_json(self.noising_matrix),
            self.stddev,
            client=self.target,
            noise_id=self.noise_id,
            shard=part,
            pad_to=RANKS,
            horizon=self.setup.steps,
            start_noise_over=again,
        )

    @property
    def rate(self) -> float:
        """The learning rate for the sum of a batch's gradients."""
        return self.setup.rate("blt") / self.setup.batch_size


def flat_gradient(job: Job, model: torch.nn.Module, step: int, rank: int, padding: int) -> torch.Tensor:
    """The sum of the clipped gradients of a rank's part of a batch, of all parameters one after the other."""
    images, labels = job.digits.batch(step, job.setup.batch_size)
    size = job.setup.batch_size // RANKS
    mine = slice(rank * size, (rank + 1) * size)
    put_clipped_sum(
        model, torch.from_numpy(images[mine]), torch.from_numpy(labels[mine]).long(), job.setup.clip
    )
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.nn.functional.pad(parameters_to_vector(gradients), (0, padding))


def flat_parameters(model: torch.nn.Module, padding: int) -> torch.Tensor:
    """All parameters one after the other."""
    return torch.nn.functional.pad(parameters_to_vector(model.parameters()).detach(), (0, padding))


def put_parameters(flat: torch.Tensor, model: torch.nn.Module) -> None:
    """The inverse of `flat_parameters`."""
    with torch.no_grad():
        length = sum(parameter.numel() for parameter in model.parameters())
        vector_to_parameters(flat[:length], model.parameters())


def train_rank(rank: int, job: Job) -> None:
    """What one rank does."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{job.directory}/store", rank=rank, world_size=RANKS
    )
    model = network(seed=0)
    with job.privatizer(model, shard()) as privatizer:
        lanes, padding = privatizer.lanes, privatizer.padding
        whole = flat_parameters(model, padding)
        part = whole[lanes.start : lanes.stop].clone()
        gradient = torch.empty_like(part)
        for step in range(job.setup.steps):
            distributed.reduce_scatter_tensor(gradient, flat_gradient(job, model, step, rank, padding))
            privatizer.add_noise(gradient)
            part -= job.rate * gradient
            distributed.all_gather_into_tensor(whole, part)
            put_parameters(whole, model)
        step_bytes = privatizer.session.step_bytes
    found = {"parameters": model.state_dict(), "lanes": (lanes.start, lanes.stop), "step_bytes": step_bytes}
    torch.save(found, job.directory / f"rank-{rank}.pt")
    distributed.destroy_process_group()


def train_whole(job: Job) -> torch.nn.Module:
    """The same in one process, which adds up what the ranks would."""
    torch.set_num_threads(1)
    model = network(seed=0)
    # The same noise under the same gradients: whoever sees both learns nothing that one does not tell.
    with job.privatizer(model, noised.Shard(0, 1), again=True) as privatizer:
        whole = flat_parameters(model, privatizer.padding)
        for step in range(job.setup.steps):
            parts = [flat_gradient(job, model, step, rank, privatizer.padding) for rank in range(RANKS)]
            gradient = parts[0] + parts[1]
            privatizer.add_noise(gradient)
            whole -= job.rate * gradient
            put_parameters(whole, model)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Two ranks train one model, each with its part of the noise."
    )
    parser.add_argument("--server", help="where noised serves with a master key; one is started unless given")
    parser.add_argument("--short", action="store_true", help="a run of seconds, to see that it works")
    given = parser.parse_args()
    if given.server == "local:":
        parser.error("--server must not be local:, which is another place in each process")
    setup = Setup(epochs=1 if given.short else 10)
    chosen = mechanism("blt", setup)
    # For the server that is started here, which takes it from its environment. The ranks do not have it.
    if "NOISED_MASTER_KEY_FILE" not in os.environ:
        os.environ["NOISED_MASTER_KEY"] = secrets.token_hex(32)
    with tempfile.TemporaryDirectory() as directory, server(given.server) as target:
        os.environ.pop("NOISED_MASTER_KEY", None)
        noise_id = f"sharded-{secrets.token_hex(8)}"
        matrix = chosen.noising_matrix.to_json()
        job = Job(setup, matrix, chosen.stddev, target, noise_id, Path(directory), load())
        spawn(train_rank, args=(job,), nprocs=RANKS)  # type: ignore[no-untyped-call]
        ranks = [torch.load(job.directory / f"rank-{rank}.pt") for rank in range(RANKS)]
        for rank, found in enumerate(ranks):
            first, end = found["lanes"]
            print(f"rank {rank}: noise for lanes {first} to {end - 1}, {found['step_bytes']} bytes a step")
        whole = train_whole(job)
    print(f"epsilon {setup.epsilon:g}, delta {setup.delta:g}: accuracy {accuracy(whole, job.digits):.1%}")
    for rank, found in enumerate(ranks):
        for name, parameter in whole.state_dict().items():
            if not torch.equal(parameter, found["parameters"][name]):
                raise SystemExit(f"rank {rank} has another {name} than one process with the whole noise")
    print(f"{RANKS} ranks and one process: the same parameters, bit for bit")


if __name__ == "__main__":
    main()
