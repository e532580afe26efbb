"""What the fields of the contract mean, subject by subject."""
