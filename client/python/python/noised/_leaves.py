"""Leaves: arrays of NumPy, JAX and PyTorch as bytes, and back with the same type, format and device."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from noised._check import several, shown, text, whole
from noised.errors import InvalidArgumentError

#: Names of formats, as arrays have them and as the protocol has them.
_NAMES = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
SIZES = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2}
#: NumPy's own formats that lie as the protocol has them.
_NUMPY: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f64": np.dtype("<f8"), "f16": np.dtype("<f2")}
_BYTES = np.dtype(np.uint8)
#: Names that were asked for before: formats are few, and every leaf of every step has one.
_seen: dict[Any, str] = {}


class Kind(Protocol):
    """Whose arrays they are, and where they lie."""

    def make(self, data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> Any:
        """An array of these bytes."""

    def flat(self) -> Kind:
        """The kind of a part of such arrays that has one axis."""

    def check(self, field: str, dtype: str) -> None:
        """Raises where there are no such arrays of a format."""


@dataclass(frozen=True)
class ShapeDtype:
    """The shape and format of an array that is not there: what a session is made for needs no values.

    Attributes:
        shape: The length of each axis.
        dtype: `float32`, `float64`, `float16` or `bfloat16`.
    """

    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True)
class Leaf:
    """What a session knows of a leaf.

    Attributes:
        path: Where it is in the tree: `layers/0/w`.
        dtype: `f32`, `f64`, `f16` or `bf16`.
        shape: The length of each axis.
        kind: Whose array it is.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    kind: Kind

    @cached_property
    def lanes(self) -> int:
        lanes = 1
        for length in self.shape:
            lanes *= length
        return lanes

    @cached_property
    def nbytes(self) -> int:
        """The bytes of its lanes."""
        return self.lanes * SIZES[self.dtype]

    @cached_property
    def plain(self) -> np.dtype[Any] | None:
        """The format of arrays of NumPy that are sent as they lie."""
        return _NUMPY.get(self.dtype)


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The format of a name of the protocol."""
    if name == "bf16":
        try:
            import ml_dtypes  # noqa: PLC0415  Nothing else needs it.
        except ImportError as error:
            raise InvalidArgumentError(
                field="dtype", rule="is bfloat16, for which NumPy needs the package ml_dtypes"
            ) from error
        halved: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return halved
    return _NUMPY[name]


def dtype_name(dtype: Any, field: str = "dtype") -> str:
    """The protocol's name of a format that is given by name, as NumPy, JAX or PyTorch have it."""
    try:
        return _seen[dtype]
    except Exception:
        # It has another name yet, or none that could be looked up.
        name = _dtype_name(dtype, field)
    with contextlib.suppress(Exception):
        _seen[dtype] = name
    return name


def _dtype_name(dtype: Any, field: str) -> str:
    # Whatever it is, it can be written out.
    name = shown(dtype)
    with contextlib.suppress(Exception):
        name = str(dtype).removeprefix("torch.")
    if name in SIZES:
        return name
    if name not in _NAMES and dtype is not None:
        # One of PyTorch's, or nothing that anybody knows, stays as it is written. NumPy raises many things.
        with contextlib.suppress(Exception):
            name = np.dtype(dtype).name
    if name not in _NAMES:
        raise InvalidArgumentError(
            field=field,
            rule=f"must be float32, float64, float16 or bfloat16, found {name[:60]}: noise is real",
        )
    return _NAMES[name]


def describe(path: str, leaf: Any) -> Leaf:
    """What a session is to know of a leaf."""
    field = f"tree.{text('tree', path)}"
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        raise InvalidArgumentError(
            field=field, rule=f"must be an array of NumPy, JAX or PyTorch, found {type(leaf).__name__}"
        )
    _refuse_mask(field, leaf)
    lengths = several(f"{field}.shape", leaf.shape, "lengths")
    dtype = dtype_name(leaf.dtype, field)
    shape = tuple(whole(f"{field}.shape", length) for length in lengths)
    kind: Kind = NumpyKind()
    if _is_torch(leaf):
        kind = TorchKind(leaf.device)
    elif _is_jax(leaf):
        kind = JaxKind(getattr(leaf, "sharding", None))
    return Leaf(path, dtype, shape, kind)


def to_bytes(leaf: Leaf, array: Any) -> NDArray[np.uint8]:
    """The bytes of an array that must be as the leaf is: its own memory, where that lies as the protocol has it."""
    # What most leaves are. A step on a small tree takes no longer than asking in detail about each of its leaves.
    if (
        type(array) is np.ndarray
        and array.dtype == leaf.plain
        and array.shape == leaf.shape
        and array.flags.c_contiguous
    ):
        data: NDArray[np.uint8] = np.ndarray((leaf.nbytes,), _BYTES, array)
        return data
    field = f"tree.{leaf.path}"
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise InvalidArgumentError(field=field, rule=f"must be an array, found {type(array).__name__}")
    if tuple(array.shape) != leaf.shape:
        raise InvalidArgumentError(
            field=field, rule=f"must have the session's shape {leaf.shape}, found {tuple(array.shape)}"
        )
    _refuse_mask(field, array)
    dtype = dtype_name(array.dtype, field)
    if dtype != leaf.dtype:
        raise InvalidArgumentError(
            field=field, rule=f"must have the session's format {leaf.dtype}, found {dtype}: cast it"
        )
    values = _torch_bytes(array) if _is_torch(array) else np.asarray(array)
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("<"))
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _refuse_mask(field: str, array: Any) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise InvalidArgumentError(field=field, rule="must not be masked: what a mask hides would be sent")


class NumpyKind:
    """Arrays of NumPy, which are views of the bytes."""

    def make(self, data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        array: NDArray[Any] = np.ndarray(shape, numpy_dtype(dtype), data)
        return array if array.flags.aligned else array.copy()

    def flat(self) -> NumpyKind:
        return self

    def check(self, field: str, dtype: str) -> None:
        numpy_dtype(dtype)


@dataclass(frozen=True)
class TorchKind:
    """Tensors of PyTorch on a device: on the processor's, they share the bytes."""

    device: Any

    def make(self, data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> Any:
        import torch  # noqa: PLC0415  It is imported already.

        if dtype == "bf16":
            halves = data.view(np.int16).reshape(shape)
            tensor = torch.from_numpy(halves if halves.flags.aligned else halves.copy()).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(NumpyKind().make(data, dtype, shape))
        return tensor if self.device.type in ("cpu", "meta") else tensor.to(self.device)

    def flat(self) -> TorchKind:
        return self

    def check(self, field: str, dtype: str) -> None:
        """It has all of them."""


@dataclass(frozen=True)
class JaxKind:
    """Arrays of JAX, laid over devices as the leaf is."""

    sharding: Any

    def make(self, data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> Any:
        import jax  # noqa: PLC0415  It is imported already.

        self.check("dtype", dtype)
        return jax.device_put(NumpyKind().make(data, dtype, shape), self.sharding)

    def flat(self) -> JaxKind:
        return JaxKind(None)

    def check(self, field: str, dtype: str) -> None:
        import jax  # noqa: PLC0415  It is imported already.

        if dtype == "f64" and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
            raise InvalidArgumentError(
                field=field, rule="is f64, which JAX has with jax_enable_x64 alone: switch it on, or use f32"
            )


def _is_torch(leaf: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(leaf, torch.Tensor)


def _is_jax(leaf: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct))


def _torch_bytes(tensor: Any) -> NDArray[Any]:
    import torch  # noqa: PLC0415  It is imported already.

    plain = tensor.detach().to("cpu").contiguous()
    if plain.dtype == torch.bfloat16:
        # NumPy has no such format; the bytes are the same.
        plain = plain.view(torch.int16)
    values: NDArray[Any] = plain.numpy()
    return values
