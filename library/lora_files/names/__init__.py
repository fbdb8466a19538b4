"""What LoRA files call the modules of a model, and how one style of names becomes another."""
