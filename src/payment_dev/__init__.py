"""The dev room: owns what runs on a developer's machine and nowhere else."""
