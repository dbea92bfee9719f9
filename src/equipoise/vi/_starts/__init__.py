"""Where a fit begins, and what it may have missed: local normals, and the ways to them."""
