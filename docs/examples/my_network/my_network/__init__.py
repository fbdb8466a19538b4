"""A network for LoRA Dojo that lives outside of it."""
