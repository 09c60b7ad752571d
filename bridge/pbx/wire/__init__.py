"""What crosses the WebSocket between bridge and PBX, free of any input and output."""
