"""The state of a run: what training changes, how it is copied, saved and resumed."""
