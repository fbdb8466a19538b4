"""A run in short, and whether the whole of it will get through: `dojo rehearse`."""
