"""What a layer of attention is made of: weights of given or named sizes, and scores in full."""
