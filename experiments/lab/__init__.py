"""What all experiments share: flags, results, figures, statistics, the report."""
