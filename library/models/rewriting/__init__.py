"""A model's files written anew with some weights changed."""
