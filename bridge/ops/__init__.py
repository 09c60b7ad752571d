"""What operators' commands do: check, trace, replay, shadow, demo, and the socket that steers a running bridge."""
