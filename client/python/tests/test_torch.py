"""`noised.torch` in a loop of one's own, against a real server."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Server
from proxy import Proxy

import noised
import noised.torch
from noised.errors import (
    CannotResumeError,
    ConnectionBrokenError,
    FingerprintMismatchError,
    InvalidArgumentError,
    PastHorizonError,
    SessionClosedError,
    UnavailableError,
)

KEY = bytes(range(32, 64))
BLT = noised.BufferedToeplitz.from_rational_approx_to_sqrt_x(3).inverse_as_streaming_matrix()


def model(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A few layers whose names are not in the order of the alphabet."""
    torch.manual_seed(0)
    layers: OrderedDict[str, torch.nn.Module] = OrderedDict(
        [("second", torch.nn.Linear(5, 3)), ("first", torch.nn.Linear(3, 2))]
    )
    return torch.nn.Sequential(layers).to(dtype)


def backward(module: torch.nn.Module, step: int) -> OrderedDict[str, torch.Tensor]:
    """Fills the gradients with what a step has, and gives copies."""
    generator = torch.Generator().manual_seed(step)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return gradients(module)


def gradients(module: torch.nn.Module) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((n, p.grad.clone()) for n, p in module.named_parameters() if p.grad is not None)


def noise_of(client: noised.Client, module: torch.nn.Module, stddev: float = 1.0) -> noised.Session:
    """A second session of the same noise."""
    tree = OrderedDict((n, torch.empty_like(p, dtype=torch.float32)) for n, p in module.named_parameters())
    return client.create_session(BLT, tree, noised.Gaussian(stddev, noise_key=KEY))


@pytest.mark.parametrize("source", ["gaussian", "privatize"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adds_the_noise_of_the_session_in_place(
    client: noised.Client, source: Any, dtype: torch.dtype
) -> None:
    module = model(dtype)
    other = noise_of(client, module)
    privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, source=source, noise_key=KEY)
    for step in range(5):
        assert privatizer.step == step
        before = backward(module, step)
        memory = {n: p.grad.data_ptr() for n, p in module.named_parameters() if p.grad is not None}
        privatizer.add_noise()
        noise = other.fetch()
        for name, gradient in gradients(module).items():
            # Added in float32, and rounded once: either source has the same bits.
            expected = (before[name].float() + noise[name]).to(dtype)
            assert torch.equal(gradient, expected), name
            assert not torch.equal(gradient, before[name])
        assert memory == {n: p.grad.data_ptr() for n, p in module.named_parameters() if p.grad is not None}


def test_float64_has_noise_in_float64(client: noised.Client) -> None:
    module = model(torch.float64)
    tree = OrderedDict(module.named_parameters())
    other = client.create_session(BLT, tree, noised.Gaussian(1.0, noise_key=KEY))
    privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, noise_key=KEY)
    before = backward(module, 0)
    privatizer.add_noise()
    noise = other.fetch()
    for name, gradient in gradients(module).items():
        assert torch.equal(gradient, before[name] + noise[name])
        assert not torch.equal(noise[name], noise[name].float().double())


def test_is_in_this_process_unless_said() -> None:
    module = model()
    with noised.torch.Privatizer(module, BLT, 1.0, noise_key=KEY) as privatizer:
        assert privatizer.session.client.targets == ["local:"]
        other = noise_of(privatizer.session.client, module)
        for step in range(3):
            before = backward(module, step)
            privatizer.add_noise()
            noise = other.fetch()
            for name, gradient in gradients(module).items():
                assert torch.equal(gradient, before[name] + noise[name])
            if step == 1:
                privatizer.load_state_dict(privatizer.state_dict())


def test_takes_an_optimizer_and_pairs(client: noised.Client) -> None:
    module = model()
    for parameters in (
        torch.optim.SGD(module.parameters(), lr=0.1),
        torch.optim.SGD(module.named_parameters(), lr=0.1),
        module.named_parameters(),
    ):
        before = backward(module, 0)
        noise = noise_of(client, module).fetch()
        noised.torch.Privatizer(parameters, BLT, 1.0, client=client, noise_key=KEY).add_noise()
        for name, gradient in gradients(module).items():
            assert torch.equal(gradient, before[name] + noise[name])
    with pytest.raises(InvalidArgumentError, match="named_parameters"):
        noised.torch.Privatizer(module.parameters(), BLT, 1.0, client=client)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["gaussian", "privatize"])
def test_strides_stay_as_they_are(client: noised.Client, source: Any) -> None:
    module = torch.nn.Conv2d(3, 4, 2)
    weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
    privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, source=source, noise_key=KEY)
    before = backward(module, 0)
    weight.grad = before["weight"].to(memory_format=torch.channels_last)
    bias.grad = torch.stack([before["bias"], before["bias"]], 1)[:, 0]
    strides = weight.grad.stride(), bias.grad.stride()
    assert not weight.grad.is_contiguous()
    privatizer.add_noise()
    assert strides == (weight.grad.stride(), bias.grad.stride())
    noise = noise_of(client, module).fetch()
    assert torch.equal(weight.grad, before["weight"] + noise["weight"])
    assert torch.equal(bias.grad, before["bias"] + noise["bias"])


def test_tied_parameters_get_noise_once(client: noised.Client) -> None:
    module = torch.nn.ModuleDict(
        {"a": torch.nn.Linear(3, 3, bias=False), "b": torch.nn.Linear(3, 3, bias=False)}
    )
    module["b"].weight = module["a"].weight
    privatizer = noised.torch.Privatizer(
        module.named_parameters(remove_duplicate=False), BLT, 1.0, client=client, noise_key=KEY
    )
    weight = module.get_parameter("a.weight")
    before = backward(module, 0)["a.weight"]
    privatizer.add_noise()
    assert weight.grad is not None
    assert torch.equal(weight.grad, before + noise_of(client, module).fetch()["a.weight"])


class TestMissing:
    """Parameters without gradient, frozen and thawed."""

    def test_frozen_ones_are_left_out(self, client: noised.Client) -> None:
        module = model()
        module.get_parameter("second.weight").requires_grad_(False)
        privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client)
        backward(module, 0)
        # One that is thawed would get no noise.
        with pytest.raises(InvalidArgumentError, match=r"second\.weight: would get no noise"):
            privatizer.add_noise()
        module.get_parameter("second.weight").grad = None
        privatizer.add_noise()
        assert privatizer.session.step == 1
        assert len(privatizer.session.lanes) == 3 + 6 + 2

    @pytest.mark.parametrize("source", ["gaussian", "privatize"])
    def test_frozen_later_drops_its_noise(self, client: noised.Client, source: Any) -> None:
        module = model()
        privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, source=source, noise_key=KEY)
        other = noise_of(client, module)
        for step in range(4):
            before = backward(module, step)
            frozen = step in (1, 2)
            module.get_parameter("first.bias").requires_grad_(not frozen)
            if frozen:
                module.get_parameter("first.bias").grad = None
            privatizer.add_noise()
            noise = other.fetch()
            after = gradients(module)
            assert ("first.bias" in after) == (not frozen)
            for name, gradient in after.items():
                assert torch.equal(gradient, before[name] + noise[name])

    def test_one_without_gradient_is_an_error_that_uses_no_noise(self, client: noised.Client) -> None:
        module = model()
        privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, noise_key=KEY)
        with pytest.raises(InvalidArgumentError, match=r"call backward\(\) first"):
            privatizer.add_noise()
        before = backward(module, 0)
        module.get_parameter("first.bias").grad = None
        with pytest.raises(InvalidArgumentError, match=r"first\.bias has none: freeze"):
            privatizer.add_noise()
        assert torch.equal(gradients(module)["second.weight"], before["second.weight"])
        backward(module, 0)
        privatizer.add_noise()
        noise = noise_of(client, module).fetch()
        assert torch.equal(gradients(module)["first.bias"], before["first.bias"] + noise["first.bias"])

    def test_or_zero(self, client: noised.Client) -> None:
        module = model()
        privatizer = noised.torch.Privatizer(
            module, BLT, 1.0, client=client, noise_key=KEY, missing_as_zero=True
        )
        privatizer.add_noise()
        noise = noise_of(client, module).fetch()
        for name, gradient in gradients(module).items():
            assert torch.equal(gradient, noise[name])


class TestRefused:
    """What cannot take noise, said before any is used."""

    def test_gradients(self, client: noised.Client) -> None:
        module = torch.nn.Embedding(4, 2, sparse=True)
        privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client)
        module(torch.tensor([1, 2])).sum().backward()
        with pytest.raises(InvalidArgumentError, match=r"gradients\.weight: must be dense"):
            privatizer.add_noise()
        module.weight.grad = torch.zeros(1, 2).expand(4, 2)
        with pytest.raises(InvalidArgumentError, match="share memory"):
            privatizer.add_noise()
        assert privatizer.session.step == 0

    def test_parameters(self, client: noised.Client) -> None:
        with pytest.raises(InvalidArgumentError, match="requires a gradient"):
            noised.torch.Privatizer(torch.nn.ReLU(), BLT, 1.0, client=client)
        imaginary = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        with pytest.raises(InvalidArgumentError, match=r"parameters\.w.*noise is real"):
            noised.torch.Privatizer([("w", imaginary)], BLT, 1.0, client=client)

    def test_arguments(self, client: noised.Client) -> None:
        strategy: Any = noised.BufferedToeplitz.from_rational_approx_to_sqrt_x(2)
        with pytest.raises(InvalidArgumentError, match=r"noising_matrix.*inverse_as_streaming_matrix"):
            noised.torch.Privatizer(model(), strategy, 1.0, client=client)
        for stddev in (None, -1.0, float("nan")):
            with pytest.raises(InvalidArgumentError, match="stddev"):
                noised.torch.Privatizer(model(), BLT, stddev, client=client)
        source: Any = "input"
        with pytest.raises(InvalidArgumentError, match="source"):
            noised.torch.Privatizer(model(), BLT, 1.0, client=client, source=source)

    def test_steps_past_the_horizon(self, client: noised.Client) -> None:
        module = model()
        privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, horizon=2)
        for step in range(2):
            backward(module, step)
            privatizer.add_noise()
        before = backward(module, 2)
        with pytest.raises(PastHorizonError):
            privatizer.add_noise()
        after = gradients(module)
        assert all(torch.equal(after[name], before[name]) for name in before)

    def test_a_tensor_that_is_spread(self, client: noised.Client, tmp_path: Path) -> None:
        from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415  It takes a second.
        from torch.distributed.tensor import Shard, distribute_tensor  # noqa: PLC0415

        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
        )
        try:
            spread = distribute_tensor(torch.zeros(4, 2), init_device_mesh("cpu", (1,)), [Shard(0)])
            parameter = torch.nn.Parameter(spread)
            parameter.grad = torch.zeros_like(spread)
            privatizer = noised.torch.Privatizer([("w", parameter)], BLT, 1.0, client=client)
            with pytest.raises(InvalidArgumentError, match=r"w: is a DTensor: give ShardPrivatizer"):
                privatizer.add_noise()
        finally:
            torch.distributed.destroy_process_group()


class TestGivenSession:
    """A session that somebody else made."""

    @pytest.mark.parametrize("source", [noised.Gaussian, noised.Privatize])
    def test_in_its_own_order(self, client: noised.Client, source: Any) -> None:
        module = model()
        # A dict is taken apart in the order of its keys, which is not the model's.
        with client.create_session(
            BLT, dict(module.named_parameters()), source(1.0, noise_key=KEY)
        ) as session:
            privatizer = noised.torch.Privatizer(module, session=session)
            other = client.create_session(
                BLT, dict(module.named_parameters()), noised.Gaussian(1.0, noise_key=KEY)
            )
            before = backward(module, 0)
            privatizer.add_noise()
            noise = other.fetch()
            for name, gradient in gradients(module).items():
                assert torch.equal(gradient, before[name] + noise[name])
            state = privatizer.state_dict()
            privatizer.close()
            assert session.step == 1
        resumed = noised.torch.Privatizer(module, BLT, 1.0, client=client, source=session.source)  # type: ignore[arg-type]
        resumed.load_state_dict(state)
        before = backward(module, 1)
        resumed.add_noise()
        noise = other.fetch()
        for name, gradient in gradients(module).items():
            assert torch.equal(gradient, before[name] + noise[name])

    def test_that_does_not_fit(self, client: noised.Client) -> None:
        module = model()
        leaves = OrderedDict(module.named_parameters())
        with pytest.raises(InvalidArgumentError, match="source is input"):
            noised.torch.Privatizer(module, session=client.create_session(BLT, leaves))
        session = client.create_session(BLT, {"w": torch.zeros(2)}, noised.Gaussian(1.0))
        with pytest.raises(InvalidArgumentError, match="in one of the two alone"):
            noised.torch.Privatizer(module, session=session)
        with pytest.raises(InvalidArgumentError, match="the one or the other"):
            noised.torch.Privatizer(module, BLT, 1.0, session=session)


_RESUME = """
import sys, torch, noised.torch
sys.path.insert(0, sys.argv[1])
from test_torch import BLT, backward, model
checkpoint = torch.load(sys.argv[2])
module = model()
optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
privatizer = noised.torch.Privatizer(module, BLT, 2.0, source=sys.argv[3])
module.load_state_dict(checkpoint["model"])
optimizer.load_state_dict(checkpoint["optimizer"])
privatizer.load_state_dict(checkpoint["noise"])
for step in range(privatizer.step, 9):
    backward(module, step)
    privatizer.add_noise()
    optimizer.step()
torch.save(module.state_dict(), sys.argv[2])
"""


@pytest.mark.parametrize("source", ["gaussian", "privatize"])
def test_a_checkpoint_goes_on_in_a_new_process_bit_for_bit(
    shared_server: Server, tmp_path: Path, source: Any
) -> None:
    path = tmp_path / "checkpoint.pt"
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    # The key is the server's, fresh: that the bits are the same shows that it is the same session.
    privatizer = noised.torch.Privatizer(module, BLT, 2.0, client=shared_server.target, source=source)
    for step in range(9):
        if step == 4:
            states = module.state_dict(), optimizer.state_dict(), privatizer.state_dict()
            torch.save(dict(zip(("model", "optimizer", "noise"), states, strict=True)), path)
        backward(module, step)
        privatizer.add_noise()
        optimizer.step()
    assert path.stat().st_size < 20_000

    tests = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", _RESUME, tests, str(path), source], check=True, timeout=240)
    resumed = torch.load(path)
    for name, parameter in module.state_dict().items():
        assert torch.equal(parameter, resumed[name]), name


class TestResume:
    """What `load_state_dict` refuses, and goes on with."""

    def test_in_the_same_process(self, client: noised.Client) -> None:
        module = model()
        privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, noise_key=KEY)
        other = noise_of(client, module)
        noise = [other.fetch() for _ in range(4)]
        for step in (0, 1, 2, 3):
            if step == 2:
                state = privatizer.state_dict()
            backward(module, step)
            privatizer.add_noise()
        privatizer.load_state_dict(state)
        assert privatizer.step == 2
        before = backward(module, 7)
        privatizer.add_noise()
        for name, gradient in gradients(module).items():
            assert torch.equal(gradient, before[name] + noise[2][name])

    def test_before_the_first_step(self, client: noised.Client) -> None:
        module = model()
        state = noised.torch.Privatizer(module, BLT, 1.0, client=client, noise_key=KEY).state_dict()
        privatizer = noised.torch.Privatizer(module, BLT, 1.0)
        privatizer.load_state_dict(state)
        before = backward(module, 0)
        privatizer.add_noise()
        noise = noise_of(client, module).fetch()
        assert torch.equal(gradients(module)["first.bias"], before["first.bias"] + noise["first.bias"])

    def test_an_object_made_for_something_else(self, client: noised.Client) -> None:
        state = noised.torch.Privatizer(model(), BLT, 1.0, client=client).state_dict()
        with pytest.raises(FingerprintMismatchError, match=r"another stddev: 1\.0, here 2\.0"):
            noised.torch.Privatizer(model(), BLT, 2.0).load_state_dict(state)
        with pytest.raises(FingerprintMismatchError, match="another noising_matrix"):
            noised.torch.Privatizer(model(), noised.identity(), 1.0).load_state_dict(state)
        with pytest.raises(FingerprintMismatchError, match="another source"):
            noised.torch.Privatizer(model(), BLT, 1.0, source="privatize").load_state_dict(state)
        with pytest.raises(InvalidArgumentError, match=r"same parameters: bias, first\.bias"):
            noised.torch.Privatizer(torch.nn.Linear(3, 3), BLT, 1.0).load_state_dict(state)
        with pytest.raises(InvalidArgumentError, match="must be what state_dict"):
            noised.torch.Privatizer(model(), BLT, 1.0).load_state_dict({})

    def test_a_session_that_is_gone_is_not_replaced(self, client: noised.Client) -> None:
        module = model()
        first = noised.torch.Privatizer(module, BLT, 1.0, client=client)
        backward(module, 0)
        first.add_noise()
        state = first.state_dict()
        first.session.delete()
        second = noised.torch.Privatizer(module, BLT, 1.0, client=client)
        with pytest.raises(CannotResumeError, match="it was deleted"):
            second.load_state_dict(state)
        before = backward(module, 1)
        with pytest.raises(SessionClosedError, match="no other session may take its place"):
            second.add_noise()
        assert torch.equal(gradients(module)["first.bias"], before["first.bias"])


def test_a_session_without_name_ends_with_its_object(client: noised.Client) -> None:
    module = model()
    with noised.torch.Privatizer(module, BLT, 1.0, client=client) as privatizer:
        backward(module, 0)
        privatizer.add_noise()
        name = privatizer.session.name
        assert client.get_session(name)["next_step"] >= 1
    assert name not in [session["name"] for session in client.list_sessions()]
    with pytest.raises(SessionClosedError, match="closed"):
        privatizer.add_noise()


@pytest.mark.parametrize("source", ["gaussian", "privatize"])
def test_a_network_that_is_cut_costs_no_step(shared_server: Server, source: Any) -> None:
    module = model()
    network = Proxy(shared_server.target)
    client = noised.connect(network.target, patience=1.0)
    privatizer = noised.torch.Privatizer(
        module, BLT, 1.0, client=client, source=source, noise_key=KEY, fetch_ahead=False
    )
    other = noise_of(client, module)
    noise = [other.fetch() for _ in range(3)]
    backward(module, 0)
    privatizer.add_noise()
    before = backward(module, 1)
    network.cut()
    with pytest.raises((UnavailableError, ConnectionBrokenError)):
        privatizer.add_noise()
    assert all(torch.equal(gradients(module)[name], before[name]) for name in before)
    network.mend()
    privatizer.add_noise()
    for name, gradient in gradients(module).items():
        assert torch.equal(gradient, before[name] + noise[1][name])


def test_a_server_that_was_started_again_has_no_session(server: Server) -> None:
    module = model()
    client = noised.connect(server.target, patience=2.0)
    privatizer = noised.torch.Privatizer(module, BLT, 1.0, client=client, fetch_ahead=False)
    backward(module, 0)
    privatizer.add_noise()
    state = privatizer.state_dict()
    server.kill()
    before = backward(module, 1)
    with pytest.raises(UnavailableError):
        privatizer.add_noise()
    server.start()
    with pytest.raises(noised.errors.SessionNotFoundError):
        privatizer.add_noise()
    assert all(torch.equal(gradients(module)[name], before[name]) for name in before)
    with pytest.raises(CannotResumeError, match="started again"):
        noised.torch.Privatizer(module, BLT, 1.0, client=client).load_state_dict(state)
    # The server itself is as good as before.
    noised.torch.Privatizer(module, BLT, 1.0, client=client).add_noise()


def test_one_large_draw_is_normal(client: noised.Client) -> None:
    module = torch.nn.Linear(1000, 1000, bias=False)
    stddev, matrix = 3.0, BLT.materialize(3)
    privatizer = noised.torch.Privatizer(module, BLT, stddev, client=client)
    steps = []
    for _ in range(3):
        module.weight.grad = torch.zeros_like(module.weight)
        privatizer.add_noise()
        steps.append(module.weight.grad.numpy().ravel().astype(np.float64))
    noise = np.stack(steps)
    lanes = noise.shape[1]
    expected = stddev**2 * matrix @ matrix.T
    # Seven standard errors of a covariance: sqrt((c_ii c_jj + c_ij^2) / lanes).
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / lanes)
    assert (np.abs(noise @ noise.T / lanes - expected) < 7 * error).all()
    assert (np.abs(noise.mean(axis=1)) < 7 * np.sqrt(np.diag(expected) / lanes)).all()
    share = (np.abs(noise[0]) < stddev).mean()
    assert abs(share - 0.682689) < 7 * np.sqrt(0.6827 * 0.3173 / lanes)


def test_a_state_is_small_and_has_no_key(client: noised.Client) -> None:
    privatizer = noised.torch.Privatizer(model(), BLT, 1.0, client=client, noise_key=KEY)
    buffer = io.BytesIO()
    torch.save(privatizer.state_dict(), buffer)
    assert KEY not in buffer.getvalue()
    assert KEY.hex().encode() not in buffer.getvalue()
    assert "noise_key" not in repr(privatizer._plan)


def test_importing_noised_imports_no_torch() -> None:
    code = "import sys, noised; assert 'torch' not in sys.modules and 'noised.torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    code = "import sys, noised.torch; assert 'torch' in sys.modules and 'opacus' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_ranks_with_all_gradients_get_no_noise_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    model = torch.nn.Linear(2, 2)
    with pytest.raises(InvalidArgumentError, match="ShardPrivatizer"):
        noised.torch.Privatizer(model, noised.identity(), 1.0)
    noised.torch.Privatizer(model, noised.identity(), 1.0, only_rank=True)


def test_a_checkpoint_is_of_so_many_steps(client: noised.Client) -> None:
    model = torch.nn.Linear(2, 2)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with noised.torch.Privatizer(model, noised.identity(), 1.0, client=client, horizon=10) as privatizer:
        privatizer.add_noise()
        state = privatizer.state_dict()
        other = noised.torch.Privatizer(model, noised.identity(), 1.0, client=client, horizon=3)
        with pytest.raises(noised.errors.FingerprintMismatchError, match="horizon"):
            other.load_state_dict(state)
        privatizer.session.delete()
