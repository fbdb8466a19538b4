"""An optimizer's state as tensors and JSON, so that it is saved as safetensors without pickle, and comes back bit for bit.

What is state: everything in `optimizer.state`, and those entries of the parameter groups that are not arguments of the
constructor (Prodigy's d, schedule-free's weight_sum, ...). Arguments belong to the configuration, and a changed one takes
effect when a run is resumed. A third-party optimizer that keeps state elsewhere does not resume exactly.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from library.core.errors import UserError

ParamGroup = dict[str, Any]
Scalars = dict[str, Any]
"""JSON-able. Tensors stand in it as {"tensor": name}, tuples and non-finite floats likewise under the name of their type."""


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Scalars]:
    """Everything an equal optimizer needs to go on: tensors on the CPU by name, and the rest for JSON.

    Raises:
        UserError: the optimizer keeps something that is neither.
    """
    tensors: dict[str, Tensor] = {}
    arguments = _constructor_arguments(optimizer)
    groups = []
    for number, group in enumerate(optimizer.param_groups):
        name = f"{number}"
        own = {key: value for key, value in group.items() if key not in arguments}
        states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
        groups.append(
            {
                "entries": _encode(own, f"{name}.group", tensors),
                "shapes": _shapes(group),
                "parameters": [_encode(state, f"{name}.{index}", tensors) for index, state in enumerate(states)],
            }
        )
    return tensors, {"optimizer": type(optimizer).__name__, "groups": groups}


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], scalars: Scalars) -> None:
    """Give an optimizer, built alike over parameters of the same shapes, the state that `optimizer_state` took.

    Raises:
        UserError: it is another optimizer's state, or of other parameter groups.
    """
    _check_alike(optimizer, scalars)
    for number, (group, saved) in enumerate(zip(optimizer.param_groups, scalars["groups"], strict=True)):
        entries = _decode(saved["entries"], tensors)
        group.update({key: _on_device(group, key, value) for key, value in entries.items()})
        for index, encoded in enumerate(saved["parameters"]):
            _restore(optimizer, number, index, _decode(encoded, tensors))


def _restore(optimizer: torch.optim.Optimizer, number: int, index: int, saved: dict[str, Any]) -> None:
    """Fill one parameter's state; in place where the optimizer has laid it out, since paged memory is its own to allocate."""
    group = optimizer.param_groups[number]
    parameter = group["params"][index]
    if not saved:
        optimizer.state.pop(parameter, None)
        return
    if _is_bitsandbytes(optimizer):
        optimizer.init_state(group, parameter, number, index)  # type: ignore[attr-defined]
    state = optimizer.state[parameter]
    for key, value in saved.items():
        laid_out = state.get(key)
        if isinstance(laid_out, Tensor) and isinstance(value, Tensor) and _alike(laid_out, value):
            laid_out.copy_(value)
        else:
            state[key] = _on_device(group, key, value)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _on_device(group: ParamGroup, key: str, value: Any) -> Any:
    """A tensor where its parameter is; torch's own step counts stay on the CPU unless the kernel reads them."""
    if not isinstance(value, Tensor):
        return value
    if key == "step" and not (group.get("capturable") or group.get("fused")):
        return value.clone()
    return value.to(group["params"][0].device, copy=True)


def _is_bitsandbytes(optimizer: torch.optim.Optimizer) -> bool:
    return any(base.__module__.startswith("bitsandbytes.") for base in type(optimizer).__mro__)


def _constructor_arguments(optimizer: torch.optim.Optimizer) -> set[str]:
    """Entries of a group that the configuration decides, and the parameters themselves."""
    return {"params", "lr", *inspect.signature(type(optimizer)).parameters}


def _check_alike(optimizer: torch.optim.Optimizer, scalars: Scalars) -> None:
    found, name = scalars["optimizer"], type(optimizer).__name__
    if found != name:
        raise UserError(
            f"the saved state is that of the optimizer {found}, and this run uses {name}; resume with the former."
        )
    saved = [(dict(group["entries"]["table"]).get("name"), group["shapes"]) for group in scalars["groups"]]
    here = [(group.get("name"), _shapes(group)) for group in optimizer.param_groups]
    if saved != here:
        raise UserError(
            f"the saved optimizer state is for {_described(saved)}, and this run trains {_described(here)}; "
            "resume with the network and the learning rates (which decide what is trained) of the saved run."
        )


def _shapes(group: ParamGroup) -> list[list[int]]:
    return [list(parameter.shape) for parameter in group["params"]]


def _described(groups: list[tuple[str | None, list[list[int]]]]) -> str:
    return ", ".join(f"{name} ({sum(map(math.prod, shapes)):,} values)" for name, shapes in groups)


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for a value; its tensors go into `tensors` under names that begin with `name`."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"table": [[key, _encode(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_encode(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise UserError(
        f"the optimizer keeps '{name}' as {type(value).__name__}, which cannot be saved; choose another optimizer_type."
    )


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `_encode` took."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return float(content)
    if kind == "table":
        return {key: _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
