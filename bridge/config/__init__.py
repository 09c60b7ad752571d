"""Settings from one TOML file and the environment; read once, at the edge.

Every mistake is reported at once, each with its key and line. Every secret may also be a file (``…_file``).
"""
