"""Speed, measured in one run against the opponent that users would otherwise pick."""
