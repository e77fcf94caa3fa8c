"""From a table to claims and figures: pure functions that read no file and know no room."""
