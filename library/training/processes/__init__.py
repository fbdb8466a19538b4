"""The processes of one run: they agree, and they end together."""
