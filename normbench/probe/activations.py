"""What goes into the activations."""

import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from normbench.probe import Probe, Reading, check_count

__all__ = ["Activations"]

PERCENTILES = (15, 50, 85)
MOST = 2**15  # values a percentile is taken over
OFF = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU)  # next to nothing comes out where what goes in is below 0
BOUNDED: dict[type[nn.Module], float] = {nn.Sigmoid: math.log(19), nn.Tanh: math.atanh(0.95)}
LOOKED_AT = (*OFF, *BOUNDED, nn.ELU, nn.LeakyReLU)


class Activations(Probe):
    """Of every activation, what goes in (kind `pre_act`) and what becomes of it (kind `act`), over a fixed batch.

    pre_act: p15, p50, p85, percentiles over all units, images and positions, between two values by their distance
    (of more than 32,768 values over so many, evenly spaced); unit_p15, unit_p50, unit_p85, of one unit; rms,
    sqrt(mean(x^2)) over all. act: dead, share of units that are off (x <= 0) for every image and position, of relu,
    relu6, gelu and silu; saturated, share of values within 0.05 of a bound, of sigmoid (0 and 1: |x| > ln 19) and tanh
    (-1 and 1: |x| > artanh 0.95). A layer is the path of its activation, its index the order in which they are
    called; one that is called several times has `:2`, `:3` behind its path.

    Args:
        images: of the fixed batch.
        unit: number, from 0, of the unit (index of dimension 1) whose own percentiles are taken.

    Raises:
        ValueError: no such whole number; a network without such a module (a recurrent cell), or with fewer units.

    Source:
        Ioffe & Szegedy 2015, arXiv 1502.03167, figure 1: percentiles 15, 50 and 85 of the input of a typical sigmoid
        of the last hidden layer.
    """

    def __init__(self, images: int = 256, unit: int = 0):
        self.images = check_count("images", images, 256)
        self.unit = check_count("unit", unit, 0, least=0)

    def measure(self, model: nn.Module, loss: Callable[[], Tensor]) -> list[Reading]:
        found: list[tuple[str, dict[str, dict[str, Tensor]]]] = []
        calls: Counter[str] = Counter()

        def look(path: str) -> Callable:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                calls[path] += 1
                name = path if calls[path] == 1 else f"{path}:{calls[path]}"
                found.append((name, self._of(name, module, inputs[0].detach())))

            return hook

        modules = [(path, m) for path, m in model.named_modules() if isinstance(m, LOOKED_AT)]
        hooks = [module.register_forward_pre_hook(look(path)) for path, module in modules]
        try:
            with torch.no_grad():
                loss()
        finally:
            for hook in hooks:
                hook.remove()
        if not found:
            names = ", ".join(kind.__name__ for kind in LOOKED_AT)
            raise ValueError(f"probe=activations needs activations that are modules ({names}); try probe=gradients")
        return [
            Reading(name, index, kind, stat, value)
            for index, (name, kinds) in enumerate(found)
            for kind, stats in kinds.items()
            for stat, value in zip(stats, torch.stack([v.double() for v in stats.values()]).tolist(), strict=True)
        ]

    def _of(self, name: str, module: nn.Module, x: Tensor) -> dict[str, dict[str, Tensor]]:
        """The readings of one activation, from what goes into it: (N, units, ...)."""
        if self.unit >= x.shape[1]:
            raise ValueError(
                f"unit must be less than the {x.shape[1]} units of {name or 'the network'}, got {self.unit}; "
                "try probe.unit=0"
            )
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # quantiles know no half type
        pre_act = _percentiles("p", x) | _percentiles("unit_p", x[:, self.unit])
        pre_act["rms"] = torch.linalg.vector_norm(x) / math.sqrt(x.numel())
        act = {}
        if isinstance(module, OFF):
            act["dead"] = (x.transpose(0, 1).flatten(1).amax(1) <= 0).double().mean()
        for kind, bound in BOUNDED.items():
            if isinstance(module, kind):
                act["saturated"] = (x.abs() > bound).double().mean()
        return {"pre_act": pre_act, "act": act} if act else {"pre_act": pre_act}


def _percentiles(prefix: str, x: Tensor) -> dict[str, Tensor]:
    values, step = x.flatten(), math.ceil(x.numel() / MOST)
    while math.gcd(step, x[0].numel()) > 1:  # else some units or positions would never be met
        step += 1
    shares = torch.tensor([p / 100 for p in PERCENTILES], dtype=x.dtype, device=x.device)
    found = torch.quantile(values[::step], shares)
    return {f"{prefix}{p}": value for p, value in zip(PERCENTILES, found, strict=True)}
