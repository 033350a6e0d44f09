"""Which runs can be trained in a stack, and which of them together. What can't be is refused with the reason."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from normbench.config import RunConfig

if TYPE_CHECKING:
    from normbench.build import Built

FREE = ("optimizer", "clip", "schedule")  # groups whose numbers may differ within a stack
NOT_STRUCTURE = ("seed", "name", "out", "progress")


def structure(config: RunConfig) -> str:
    """What the runs of a stack must have in common, as text: all but seeds, and the numbers of FREE."""
    settings = {key: value for key, value in config.to_dict().items() if key not in NOT_STRUCTURE}
    for group in FREE:
        settings[group] = {key: value for key, value in settings[group].items() if not _is_number(value)}
    return json.dumps(settings, sort_keys=True)


def _is_number(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def steps_alike(config: RunConfig) -> str:
    """Equal for runs whose weights are stepped with the same numbers at every step."""
    return json.dumps([config.optimizer, config.schedule], sort_keys=True)


def ends_of_blocks(builts: "Sequence[Built]") -> list[int]:
    """Where neighbours that are stepped alike end; a schedule that looks at the rows makes each a block of its own."""
    from normbench.schedule import constant, cosine, exponential, inverse_time, linear, onecycle, step

    of_the_step = (constant, cosine, exponential, inverse_time, linear, onecycle, step)
    alike = [
        steps_alike(built.config) if any(type(built.schedule).__module__ == m.__name__ for m in of_the_step) else None
        for built in builts
    ]
    return [n for n in range(1, len(alike) + 1) if n == len(alike) or alike[n] is None or alike[n] != alike[n - 1]]


def check(built: "Built") -> None:
    """Raise Impossible, with the reason, for a run that a stack can't train as its serial run would be."""
    from normbench.norm import Impossible

    why = _why_not(built)
    if why:
        raise Impossible(f"engine=stack does not serve this run: {why}; try engine=serial")


def _why_not(built: "Built") -> str | None:
    from torch import nn

    from normbench.stack import clips, layers, optimizers

    config, layer = built.config, layers.without_twin(built.model)
    if layer is not None:
        kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
        return (
            f"model={config.model['name']} norm={config.norm['name']} holds a {kind}, of which there is no form for "
            "several networks side by side"
        )
    if type(built.optimizer) not in optimizers.ELEMENTWISE:
        return f"optimizer={config.optimizer['name']} is not known to move every entry by its own gradients alone"
    if type(built.clip) not in clips.RULES:
        return f"clip={config.clip['name']} looks at parts of a network that a stack does not keep apart"
    if config.probe["name"] != "none":
        return f"probe={config.probe['name']} looks into one network"
    if config.channels_last:
        return "channels_last=true, a stack has one layout"
    if built.amp is not None:
        return f"amp={config.amp}, a stack computes in float32"
    if built.device.type == "cuda" and any(isinstance(layer, nn.Dropout) for layer in built.model.modules()):
        return "a GPU's draws for dropout can't be made for one network at a time"
    return None
