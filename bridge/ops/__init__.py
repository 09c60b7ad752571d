"""What operators' commands do: check, trace, replay, demo, and the socket that steers a running bridge."""
