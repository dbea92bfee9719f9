"""The second moment of play on batches: how far a step may go, and where noise lets it settle."""
