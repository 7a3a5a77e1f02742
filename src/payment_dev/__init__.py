"""What runs on a developer's machine and nowhere else."""
