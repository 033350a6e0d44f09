"""A recurrent network that reads an image row by row, normalized inside its cell."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.model import Model
from normbench.norm import Impossible

__all__ = ["RNN"]

GATES = {"rnn": 1, "lstm": 4, "gru": 3}  # parts of a cell's pre-activation, each as wide as the hidden state


class RNN(Model):
    """One recurrent layer over the rows of an image, first row first; a linear head on the last hidden state.

    x_t is row t of all channels, N one of the norm's layers, h_0 = c_0 = 0, * between vectors elementwise:

        a_t = N_x(W_x x_t) + b,   u_t = N_h(W_h h_{t-1}),   u_1 = 0
        rnn    h_t = tanh(a_t + u_t)
        lstm   (i, f, g, o) = a_t + u_t
               c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g),   h_t = sigmoid(o) * tanh(N_c(c_t))
        gru    (a_r, a_z, a_n) = a_t, (u_r, u_z, u_n) = u_t, r = sigmoid(a_r + u_r), z = sigmoid(a_z + u_z)
               h_t = (1 - z) * tanh(a_n + r * u_n) + z * h_{t-1}

    Rows that are NaN are not there (normbench.dataset.Data: masked): a sequence ends before its first one, and the
    head sees its last hidden state before that. What is behind its end enters no statistic and no gradient.

    A norm whose layer has buffers called running_* gets a layer for each time step: statistics of its own, weights
    shared by all steps. Its statistics are those of the sequences that are still there; where fewer than two are, the
    layer works as in evaluation, and its statistics stay as they are. Any other norm has one layer for all steps, which
    gets the W_x x_t of all steps at once.

    N_x and N_h have no shift of their own: b, which is added after them, would be the same. It is a constant 0.
    N_c keeps its shift. Norms of weights act on W_x and W_h, but wn's data-dependent start leaves them as they are, as
    its paper says of recurrent networks.

    All norms start from the same weights: W_x as nn.Linear's; W_h orthogonal for each gate; b uniform on
    +-1/sqrt(hidden), as torch's, and 1 for f. Were b = 0, then h would be 0, too, as long as the rows are black, where
    norms of a single sample have the derivative 1/sqrt(eps): a dozen such rows and the gradient is infinite.

    Args:
        norm: normbench.norm.Norm, for N_x and N_h over all gates together and for N_c.
        input_shape: (C, H, W): at most H steps of C W features.
        num_classes: outputs of the head.
        cell: rnn, lstm or gru.
        hidden: width of the hidden state.
        dropout: on the last hidden state; probability in [0, 1).
        gain_init: where the gains (weights, one a channel) of N_x, N_h and N_c start; > 0. Without gains, no effect.
            Cooijmans et al. take 0.1: at 1 tanh and the gates saturate, and gradients vanish over hundreds of steps.
            Over 28 rows and 5 epochs (fashion_rows) 1 is better for lstm and gru.

    Shape:
        (N, C, H, W) -> (N, num_classes); H at least 2.

    Raises:
        ValueError: a setting out of range, images of one row, or an image without a first row.
        Impossible: a norm that takes the activation's place.

    Source:
        Cooijmans, Ballas, Laurent, Gulcehre & Courville 2016, arXiv 1603.09025, eq. 6 to 8 and sections 3 and 4; Ba,
        Kiros & Hinton 2016, arXiv 1607.06450, supplement, eq. 20 to 22 for lstm. Cells: Hochreiter & Schmidhuber 1997
        with forget gates; Cho et al. 2014, arXiv 1406.1078, with r after the product as in torch.nn.GRU, whose gates'
        order is kept. Differences: h_0 is no parameter; running averages, where the first evaluates with the
        statistics of the training set (eval.statistics=[population]); a step that no training sequence reached keeps
        its first statistics, there it has those of the last one reached; the second normalizes gru's candidate apart
        from its gates.
    """

    def __init__(
        self,
        norm,
        input_shape: tuple[int, ...],
        num_classes: int,
        cell: str = "lstm",
        hidden: int = 64,
        dropout: float = 0.0,
        gain_init: float = 1.0,
    ):
        super().__init__()
        channels, height, width = input_shape
        if cell not in GATES:
            raise ValueError(f"cell must be one of {', '.join(GATES)}; got {cell!r}")
        if not isinstance(hidden, int) or hidden < 1:
            raise ValueError(f"hidden must be a whole number >= 1, got {hidden}; try model.hidden=64")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}; try model.dropout=0.5")
        if not (gain_init > 0 and math.isfinite(gain_init)):
            raise ValueError(f"gain_init must be a number > 0, got {gain_init}; try model.gain_init=1")
        if height < 2:
            raise ValueError(f"rnn needs images of at least 2 rows, these are {height} x {width}; try model=mlp")
        if norm.replaces_activation:
            raise Impossible(
                "this norm ends in a nonlinearity of its own, in the activation's place, but a cell's gates need "
                "theirs; try norm=rms, or model=cnn"
            )
        self.cell, self.gain_init = cell, gain_init
        size = GATES[cell] * hidden
        self.input = norm.reparametrize(nn.Linear(channels * width, size, bias=False))
        self.recurrent = norm.reparametrize(nn.Linear(hidden, size, bias=False))
        self.bias = nn.Parameter(torch.zeros(size))
        self.input_norm = _OverTime(norm, size, height, shift=False)
        self.recurrent_norm = _OverTime(norm, size, height - 1, shift=False)
        if cell == "lstm":
            self.cell_norm = _OverTime(norm, hidden, height)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(hidden, num_classes)

    @torch.no_grad()
    def draw(self, layer: nn.Module) -> None:
        super().draw(layer)
        if layer is self:
            bound = self.recurrent.in_features**-0.5
            self.bias.uniform_(-bound, bound)
            if self.cell == "lstm":
                self.bias.chunk(4)[1].fill_(1)
        if layer is self.recurrent:
            for gate in layer.weight.chunk(GATES[self.cell]):  # type: ignore[operator]
                nn.init.orthogonal_(gate)
        for norms in self.children():
            if isinstance(norms, _OverTime) and layer in list(norms):
                gain = getattr(layer, "weight", None)
                if isinstance(gain, nn.Parameter) and gain.dim() == 1:
                    gain.fill_(self.gain_init)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(2, 0, 1, 3).flatten(2)  # (H, N, C W)
        there = rows.isnan().all(2).logical_not().cumprod(0)  # 1 up to the end of each sequence, then 0
        counts = [count for count in there.sum(1).tolist() if count]  # sequences that are there at each step
        if not counts or counts[0] < len(x):
            raise ValueError("rnn needs at least one row of every image, the first, that is not NaN")
        order = None
        if counts[-1] < len(x):
            order = there.sum(0).argsort(descending=True, stable=True)  # those that are there come first
            rows = rows.index_select(1, order)
        sequence = torch.cat([row[:count] for row, count in zip(rows, counts, strict=False)])
        given = self.input_norm.at_all(F.linear(sequence, self.input.weight), counts) + self.bias

        weight = self.recurrent.weight  # made once: it may be reparametrized
        zeros = given.new_zeros(len(x), weight.shape[1])
        state, last = (zeros, zeros), []
        following = [*counts[1:], 0]
        for step, now in enumerate(given.split(counts)):
            if step == 0:
                recurrent = torch.zeros_like(now)
            else:
                recurrent = self.recurrent_norm(F.linear(state[0], weight), step - 1)
            state = self._next(step, now, recurrent, *state)
            if following[step] < counts[step]:
                last.append(state[0][following[step] :])
                state = state[0][: following[step]], state[1][: following[step]]
        hidden = torch.cat(last[::-1])
        if order is not None:
            hidden = hidden.index_select(0, order.argsort())
        return self.head(self.dropout(hidden))

    def _next(self, step: int, a: Tensor, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden state and lstm's c at `step`, from those before; each (sequences that are there, hidden)."""
        if self.cell == "rnn":
            return (a + u).tanh(), c
        if self.cell == "lstm":
            i, f, g, o = (a + u).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            return o.sigmoid() * self.cell_norm(c, step).tanh(), c
        (a_r, a_z, a_n), (u_r, u_z, u_n) = a.chunk(3, 1), u.chunk(3, 1)
        r, z = (a_r + u_r).sigmoid(), (a_z + u_z).sigmoid()
        n = (a_n + r * u_n).tanh()
        return n + z * (h - n), c


class _OverTime(nn.ModuleList):
    """The norm's layer at every time step: one for all of them, or one each with shared weights; see RNN.

    It is empty where the norm puts no layer.

    Args:
        norm: asked for every layer.
        num_features: width of the activations.
        steps: time steps.
        shift: false: the layers' biases, one number a channel, are a constant 0.
    """

    def __init__(self, norm, num_features: int, steps: int, shift: bool = True):
        first = norm.layer(num_features)
        super().__init__() if isinstance(first, nn.Identity) else super().__init__([first])
        self.with_statistics = any(name.split(".")[-1].startswith("running_") for name, _ in first.named_buffers())
        if self.with_statistics:
            self.extend(norm.layer(num_features) for _ in range(1, steps))
        for layer in self:
            bias = getattr(layer, "bias", None)
            if not shift and isinstance(bias, nn.Parameter) and bias.dim() == 1:
                del layer.bias
                layer.register_buffer("bias", torch.zeros(num_features), persistent=False)
            for path, parameter in first.named_parameters():
                owner, _, name = path.rpartition(".")
                setattr(layer.get_submodule(owner), name, parameter)

    def forward(self, x: Tensor, step: int) -> Tensor:
        """The rows of one step, (sequences, num_features)."""
        if not len(self):
            return x
        if not self.with_statistics:
            return self[0](x)
        layer = self[step]
        if not layer.training or len(x) > 1:
            return layer(x)
        layer.eval()  # one value per channel has no variance
        try:
            return layer(x)
        finally:
            layer.train()

    def at_all(self, x: Tensor, counts: list[int]) -> Tensor:
        """The rows of all steps, counts[0] of the first step, then counts[1] of the second, and so on."""
        if not self.with_statistics:
            return self[0](x) if len(self) else x
        return torch.cat([self(rows, step) for step, rows in enumerate(x.split(counts))])
