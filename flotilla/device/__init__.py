"""What a device can do: time, memory and the line to the server."""
