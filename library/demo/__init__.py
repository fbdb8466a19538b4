"""The embedded demo model: a tiny latent diffusion model trained on pictures that the project draws itself."""
