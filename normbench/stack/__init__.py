"""`engine=stack`: runs that differ only in numbers, trained as one program.

The networks of N runs (replicas) are one network whose layers hold N sets of weights, each parameter a tensor
(N, ...). Their batches stand side by side in the channels: activations are (B, N C) or (B, N C, H, W), replica n in
the channels n C to (n + 1) C, so that a model's own `forward` and whatever acts on each channel alone work unchanged.

layers.py      one network of many: the twins of the layers that have weights, statistics or random numbers
optimizers.py  torch.optim, unmodified, over slices of the stacked parameters
clips.py       the clipping rules, replica by replica
loop.py        train() and evaluate(): as normbench/train.py, for N replicas
replicas.py    runs in and out: batches, states, checkpoints, records
support.py     which runs can be trained so, and which of them together
"""
