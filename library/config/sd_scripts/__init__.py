"""What sd-scripts and the programs around it write, and what becomes of it here."""
