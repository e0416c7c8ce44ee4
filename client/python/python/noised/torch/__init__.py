"""Correlated noise in PyTorch's training loops.

    privatizer = noised.torch.Privatizer(model, noising_matrix, stddev=stddev, client="localhost:7467")
    for step in range(n):
        sum_of_clipped_gradients(model, batch(step))  # fills every p.grad
        privatizer.add_noise()
        optimizer.step()
        optimizer.zero_grad()

`Privatizer` is for a loop of one's own, `replace_opacus_noise` for the optimizer of Opacus, and `ShardPrivatizer` for
ranks of which each holds a part of the gradient. All of them put the step's noise where the gradient is, in place, and
go into a checkpoint with `state_dict` and `load_state_dict`.
"""

from noised._extras import missing

try:
    import torch  # noqa: F401  Whether it is there.
except ImportError as error:
    raise missing(error, "torch") from error

from noised._options import SessionOptions
from noised.torch._opacus import OpacusNoise, replace_opacus_noise
from noised.torch._privatizer import Privatizer
from noised.torch._shards import ShardPrivatizer, shard

__all__ = [
    "OpacusNoise",
    "Privatizer",
    "SessionOptions",
    "ShardPrivatizer",
    "replace_opacus_noise",
    "shard",
]
