"""Code hosts. ``contract`` is the seam; every folder beside it is one implementation of it."""
