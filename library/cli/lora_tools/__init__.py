"""The tools of `dojo lora`, a module each."""
