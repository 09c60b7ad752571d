"""What passes between a bridge and a PBX, written down without a word about any person, and read again."""
