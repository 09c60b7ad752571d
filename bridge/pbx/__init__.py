"""The PBX: the wire, the walk along its list of accounts, and connections that we open or that it opens."""
