"""Where the seconds, the bytes and the calls go."""
