"""What happens when a wheel of the project is built; no part of it."""
