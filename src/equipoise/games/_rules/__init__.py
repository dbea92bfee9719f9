"""Games, and the update rules by which they are played."""
