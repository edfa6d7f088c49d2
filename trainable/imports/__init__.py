"""Import of a user's data: reading files, detecting columns, splitting, writing our format."""
