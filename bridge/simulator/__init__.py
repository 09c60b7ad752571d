"""A pretend PBX that speaks the same wire from the other side."""
