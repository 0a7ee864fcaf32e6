"""The door: keys, their types and ranges, and what they mean."""
