"""What the training examples share: data, a budget, mechanisms, a server, and what is told at the end.

The data is scikit-learn's digits: 1797 images of 8 x 8 pixels, which come with the package. The first 1440
of a fixed permutation are trained on and the other 357 tested on.

Batches are taken in a fixed order, the same in every epoch. So each example takes part in exactly one step
of an epoch, and its steps are exactly `steps_per_epoch` apart. The calibration rests on that, and on nothing
random: no amplification by sampling is claimed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import noised

#: Pixels of an image, and kinds of digits.
PIXELS, CLASSES = 64, 10
#: Images to train on. Batch sizes divide it.
TRAIN = 1440
#: What is compared, unless fewer are asked for.
MECHANISMS = ("independent", "blt", "banded")

#: The best learning rate of each, of 2^-6, 2^-5, ... 1: found with other seeds. Less noise permits more.
_RATES = {"independent": 0.125, "blt": 0.25, "banded": 0.25}

#: The accuracy on the test images after some steps.
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Digits:
    """Images with values from -1 to 1, one a row, and their labels.

    Attributes:
        images: `1440 x 64`, to train on.
        labels: What they show.
        test_images: `357 x 64`.
        test_labels: What they show.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int32]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int32]

    def batch(self, step: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The images and labels of a step: a function of it, so that one trained again has the same."""
        first = step % (TRAIN // size) * size
        return self.images[first : first + size], self.labels[first : first + size]


def load() -> Digits:
    """Reads the digits, and splits them. Pixels are scaled by their known range: nothing is estimated."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  It takes a second.

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = (found.data[order] / 8 - 1).astype(np.float32)
    labels = found.target[order].astype(np.int32)
    return Digits(images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:])


@dataclass(frozen=True)
class Setup:
    """A training run, and the privacy that it is to have.

    Attributes:
        epsilon: Of the whole run, for one example that is there or not.
        delta: Beside epsilon.
        epochs: Passes over the training images: in so many steps each of them takes part.
        batch_size: Images of a step; divides 1440.
        clip: The L2 norm that the gradient of one example is clipped to.
        learning_rate: Of gradient descent on the mean of a batch's clipped gradients; unless set, for each
            mechanism the best of a grid.
        seeds: Runs of each mechanism, each with an initialisation and a noise of its own.
        evaluate_every: Steps between two looks at the test images.
    """

    epsilon: float = 3.0
    delta: float = 1e-5
    epochs: int = 20
    batch_size: int = 48
    clip: float = 1.0
    learning_rate: float | None = None
    seeds: int = 5
    evaluate_every: int = 30

    @property
    def steps_per_epoch(self) -> int:
        """Steps between two in which one example takes part."""
        return TRAIN // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.epochs * self.steps_per_epoch

    @property
    def participation(self) -> noised.Participation:
        """Which steps one example takes part in."""
        return noised.Participation(min_sep=self.steps_per_epoch, max_participations=self.epochs)

    def rate(self, name: str) -> float:
        """The learning rate of a mechanism."""
        return _RATES[name] if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True)
class Mechanism:
    """Noise that gives a setup its privacy.

    Attributes:
        name: `independent`, `blt` or `banded`.
        noising_matrix: `C^-1`: what a session streams.
        sensitivity: Of the strategy `C`, for the setup's participation and gradients of norm 1.
        stddev: Of the independent normals that the matrix correlates, in units of the *sum* of a batch's
            clipped gradients.
        error: The root of the mean squared noise in a sum of steps: what a model has in it that took them.
    """

    name: str
    noising_matrix: noised.StreamingMatrix
    sensitivity: noised.Sensitivity
    stddev: float
    error: float


def mechanism(name: str, setup: Setup) -> Mechanism:
    """Designs a mechanism for a setup's steps, and calibrates its noise to the setup's budget."""
    steps, participation = setup.steps, setup.participation
    if name == "independent":
        matrix = noised.identity()
        sensitivity = noised.sensitivity(matrix, steps, participation)
    elif name in ("blt", "banded"):
        bands = None if name == "blt" else setup.steps_per_epoch
        family: noised.design.Family = "buffered_toeplitz" if bands is None else "banded_toeplitz"
        design = noised.optimize(family, steps, bands=bands, participation=participation)
        matrix, sensitivity = design.noising_matrix, design.sensitivity
    else:
        raise SystemExit(f"no mechanism {name}: choose of {', '.join(MECHANISMS)}")
    # One Gaussian mechanism of this sensitivity: the noise multiplier is that of (epsilon, delta).
    found = noised.calibrate(sensitivity, epsilon=setup.epsilon, delta=setup.delta)
    stddev = found.noise_multiplier * setup.clip * sensitivity.value
    error = stddev * float(np.sqrt(noised.query_errors(matrix, steps).mean()))
    return Mechanism(name, matrix, sensitivity, stddev, error)


@contextlib.contextmanager
def server(target: str | None) -> Iterator[str]:
    """Where sessions are held: the target that is given, or a server that runs as long as this block."""
    if target is not None:
        yield target
        return
    command = [_program(), "serve", "--listen", "127.0.0.1:0", "--log-format", "json"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield _address(process)
    finally:
        # Nothing that it holds is wanted any more.
        process.kill()
        process.wait()


def _program() -> str:
    root = Path(__file__).resolve().parents[2]
    built = [root / "target" / profile / "noised" for profile in ("release", "debug")]
    program = shutil.which("noised") or next((str(path) for path in built if path.exists()), None)
    if program is None:
        raise SystemExit("the program noised is not on PATH, nor in target: build it, or say --server local:")
    return program


def _address(process: subprocess.Popen[str]) -> str:
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        # To the end, so that a server that has much to say is never held up.
        for line in process.stderr or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    said = ""
    while (line := lines.get()) is not None:
        said += line
        with contextlib.suppress(ValueError, AttributeError):
            address = json.loads(line).get("fields", {}).get("address")
            if address is not None:
                return str(address)
    raise SystemExit(f"the server has ended:\n{said}")


def arguments(description: str, setup: Setup, short: Setup) -> tuple[Setup, argparse.Namespace]:
    """Reads the command line.

    Args:
        description: What the example does.
        setup: The run, where nothing is said.
        short: The run of `--short`: seconds, to see that all of it works.

    Returns:
        The setup; and `server` (a target or `None`), `mechanisms` (names) and `plot` (a path or `None`).
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--server", help="where noised serves, or local:; a server is started unless given")
    parser.add_argument("--short", action="store_true", help="a run of seconds, to see that it works")
    parser.add_argument("--mechanisms", nargs="+", default=MECHANISMS, choices=MECHANISMS)
    parser.add_argument("--plot", type=Path, help="where to draw the accuracy, such as digits.svg")
    for name in ("epsilon", "delta", "clip", "learning_rate"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float)
    for name in ("epochs", "batch_size", "seeds"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    found = parser.parse_args()
    given = {name: value for name, value in vars(found).items() if value is not None}
    chosen = short if found.short else setup
    chosen = replace(chosen, **{name: given[name] for name in vars(chosen) if name in given})
    if TRAIN % chosen.batch_size:
        parser.error(f"--batch-size must divide {TRAIN}, found {chosen.batch_size}")
    return chosen, found


def compare(
    setup: Setup,
    names: Sequence[str],
    train: Callable[[Mechanism, int], Curve],
    plot_to: Path | None = None,
) -> dict[str, list[Curve]]:
    """Trains with each mechanism and several seeds, prints a table, and draws the accuracy.

    Args:
        setup: The run.
        names: Of the mechanisms.
        train: Trains once, with a mechanism and a seed, and gives the accuracy after some steps.
        plot_to: Where to draw it, if at all. Takes matplotlib.

    Returns:
        The curves of each mechanism, one a seed.
    """
    print(
        f"epsilon {setup.epsilon:g}, delta {setup.delta:g}: {setup.epochs} epochs of {setup.steps_per_epoch} "
        f"steps, {setup.batch_size} images a step, clipped to {setup.clip:g}\n"
    )
    head = f"{'mechanism':<12} {'sensitivity':>11} {'stddev':>8} {'in a sum':>9} {'rate':>7}"
    print(f"{head}  accuracy of {setup.seeds} seeds")
    curves: dict[str, list[Curve]] = {}
    for name in names:
        chosen = mechanism(name, setup)
        curves[name] = [train(chosen, seed) for seed in range(setup.seeds)]
        final = np.array([curve[-1][1] for curve in curves[name]])
        print(
            f"{name:<12} {chosen.sensitivity.value:>11.3f} {chosen.stddev:>8.3f} {chosen.error:>9.1f} "
            f"{setup.rate(name):>7.3f}  "
            f"{final.mean():.1%} (lowest {final.min():.1%}, highest {final.max():.1%})",
            flush=True,
        )
    if plot_to is not None:
        plot(setup, curves, plot_to)
    return curves


def plot(setup: Setup, curves: dict[str, list[Curve]], path: Path) -> None:
    """Draws the mean accuracy over steps, with a band from the lowest to the highest seed."""
    try:
        import matplotlib  # noqa: PLC0415  Everything else goes without.
    except ImportError:
        print("nothing is drawn: matplotlib is not installed", file=sys.stderr)
        return
    matplotlib.use("agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name, runs in curves.items():
        steps = [step for step, _ in runs[0]]
        values = np.array([[accuracy for _, accuracy in run] for run in runs])
        (line,) = axes.plot(steps, values.mean(axis=0), label=name)
        lowest, highest = values.min(axis=0), values.max(axis=0)
        axes.fill_between(steps, lowest, highest, color=line.get_color(), alpha=0.2, lw=0)
    axes.set_xlabel("step")
    axes.set_ylabel("accuracy on the test images")
    axes.set_title(
        f"digits, epsilon {setup.epsilon:g}, delta {setup.delta:g}: "
        f"mean, lowest and highest of {setup.seeds} seeds"
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
