"""The contract of a loss: an nn.Module (logits (N, K), labels (N,)) -> the mean loss of the batch, a scalar tensor."""
