"""What lies beyond the first critical step: later intervals of stability, and cycles."""
