"""Where a network acts, how large it is there, and how fast it learns there."""
