"""What the keeper does for each shard it owns, one job a file."""
