"""What the engine costs, measured against a floor on the same machine in the same run."""
