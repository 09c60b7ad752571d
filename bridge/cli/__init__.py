"""The commands, in modules by what they are for; ``main`` puts them together."""
