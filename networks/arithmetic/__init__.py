"""The products that several networks share."""
