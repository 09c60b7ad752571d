"""The running bridge: its parts, and how they are put together from the settings."""
