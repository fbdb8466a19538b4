"""LoRA files put onto a model, merged into it, or put together."""
