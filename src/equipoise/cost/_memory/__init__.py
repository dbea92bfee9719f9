"""What a program keeps in memory: at the worst moment, and between the passes of training."""
