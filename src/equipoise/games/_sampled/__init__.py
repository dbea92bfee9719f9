"""Games of minibatches, and play on the batches that a key draws."""
