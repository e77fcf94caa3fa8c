"""Checked-in or own runs as pages: the report of all, the card of one."""
