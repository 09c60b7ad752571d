"""Which questions to ask a PBX, and when: decided without waiting, and without a clock."""
