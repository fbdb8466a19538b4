"""Tags and captions for pictures, from models that lie on this machine."""
