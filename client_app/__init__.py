"""The client half: a ClientApp that trains whatever part it is asked to. It does not know which method it serves."""
