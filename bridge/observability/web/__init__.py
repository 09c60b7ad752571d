"""The page: how the bridge is doing, to look at. What steers it goes by ``ops.control_socket``."""
