"""What is told of a run before it starts: a report, as a table, as JSON and as a contact sheet."""
