"""How the weights of N replicas are stepped: torch.optim as it is, each replica with its own numbers."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from normbench import fused
from normbench.optimizer.lion import Lion
from normbench.schedule import Row, Schedule
from normbench.train import remembered, set_group

# each entry of a parameter is moved by its own gradients alone, so that a stacked parameter is as good as its parts
ELEMENTWISE = (
    torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.Adadelta, torch.optim.Adam,
    torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam, Lion,
)  # fmt: skip


@dataclass
class Block:
    """Neighbours in the stack, from `first` to before `end`, that are stepped with the same numbers."""

    first: int
    end: int
    schedule: Schedule
    groups: list[dict[str, Any]]
    initial: list[dict[str, float]]


class Optimizers:
    """One object of the replicas' optimizer class: for each block and each of its parameter groups one group.

    Its parameters are slices (replicas of the block, ...) of the stacked ones.

    Args:
        network: of stacked layers.
        models, optimizers, schedules: those of each replica, as its serial run would have them.
        ends: where each block of replicas with equal numbers ends, rising to the number of replicas.
    """

    def __init__(
        self,
        network: nn.Module,
        models: Sequence[nn.Module],
        optimizers: Sequence[torch.optim.Optimizer],
        schedules: Sequence[Schedule],
        ends: Sequence[int],
    ):
        self.models, self.theirs = models, optimizers
        self.slices: list[tuple[Parameter, Parameter, slice]] = []
        stacked, groups = dict(network.named_parameters()), []
        for first, end in zip([0, *ends], ends, strict=False):
            names = {parameter: name for name, parameter in models[first].named_parameters()}
            for group in optimizers[first].param_groups:
                its = [self._slice(stacked[names[p]], first, end, len(models)) for p in group["params"]]
                groups.append({**group, "params": its})
        kind, count = type(optimizers[0]), len(optimizers[0].param_groups)
        takes = inspect.signature(kind).parameters
        self.optimizer = kind(groups, **{k: v for k, v in optimizers[0].defaults.items() if k in takes})
        fused.quick(self.optimizer)
        made = self.optimizer.param_groups
        self.blocks = [
            Block(first, end, schedules[first], its, [remembered(group) for group in its])
            for number, (first, end) in enumerate(zip([0, *ends], ends, strict=False))
            for its in [made[number * count : (number + 1) * count]]
        ]

    def _slice(self, parameter: Parameter, first: int, end: int, width: int) -> Parameter:
        if (first, end) == (0, width):
            return parameter
        part = Parameter(parameter.data[first:end])
        self.slices.append((part, parameter, slice(first, end)))
        return part

    def set_to(self, step: int, total_steps: int, histories: Sequence[Sequence[Row]]) -> None:
        """Give every replica the settings that its schedule has for this step."""
        for block in self.blocks:
            for group, its in zip(block.groups, block.initial, strict=True):
                set_group(group, block.schedule.values(step, total_steps, histories[block.first], its))

    def step(self) -> None:
        for part, parameter, replicas in self.slices:
            part.grad = parameter.grad[replicas]  # type: ignore[index]
        self.optimizer.step()

    def lr(self, number: int) -> float:
        """Of the replica's first parameter group, as it stands."""
        return self._block(number).groups[0]["lr"]

    def first_lr(self, number: int, total_steps: int) -> float:
        block = self._block(number)
        its = block.initial[0]
        return (its | block.schedule.values(0, total_steps, [], its))["lr"]

    def _block(self, number: int) -> Block:
        return next(block for block in self.blocks if number < block.end)

    def put(self) -> None:
        """Take up the states of the replicas' own optimizers, which all stand at the same step."""
        for block in self.blocks:
            for position, group in enumerate(block.groups):
                members = [self.theirs[n].param_groups[position] for n in range(block.first, block.end)]
                group |= {key: value for key, value in members[0].items() if key != "params"}
                for index, parameter in enumerate(group["params"]):
                    own = [self.theirs[block.first + i].state.get(m["params"][index]) for i, m in enumerate(members)]
                    if own[0]:
                        self.optimizer.state[parameter] = _joined(own, parameter.shape[1:])
            block.initial = [remembered(group) for group in block.groups]

    def take(self, number: int) -> None:
        """Give the replica's own optimizer its state."""
        block, its = self._block(number), self.theirs[number]
        for own, group in zip(its.param_groups, block.groups, strict=True):
            own |= {key: value for key, value in group.items() if key != "params"}
            for mine, parameter in zip(own["params"], group["params"], strict=True):
                state = self.optimizer.state.get(parameter) or {}
                its.state[mine] = {k: _part(v, number - block.first, parameter.shape) for k, v in state.items()}


def _joined(states: Sequence[Any], shape: torch.Size) -> dict[str, Any]:
    """What is there for each entry is stacked; what is there once (a count of steps) is equal for all."""
    return {
        key: torch.stack([state[key] for state in states])
        if isinstance(value, Tensor) and value.shape == shape
        else value.clone() if isinstance(value, Tensor) else value
        for key, value in states[0].items()
    }  # fmt: skip


def _part(value: Any, index: int, shape: torch.Size) -> Any:
    if not isinstance(value, Tensor):
        return value
    return (value[index] if value.shape == shape else value).clone()
