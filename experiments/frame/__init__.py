"""What every experiment shares: flags, the resumable run, its folder, and jobs of a scheduler."""
