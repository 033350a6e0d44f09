"""The contract of a loss: a callable (logits (N, K), labels (N,)) -> the mean loss of the batch, a scalar tensor."""
