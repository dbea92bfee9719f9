"""The vendor's fused kernels for values and first derivatives, below derivatives of any order."""
