"""PBXs that dial us: their App object has the Websocket check mark and our URL.

1. ``ConnectionLimiter`` decides who may connect at all, and how often somebody may try; ``ListeningSocket`` asks it
   before any TLS.
2. ``Listener`` takes the WebSocket, challenges, and has ``Authenticator`` look at the login: one answer for all who
   fail.
3. ``Identity`` (System Name and PBX name) makes the name of the source; login and PbxInfo have to agree about it.
4. ``InboundSource`` is that source: it reads the newest connection, exactly as if we had dialled it.

The PBX proves that it knows the password of the App object, we prove nothing but our TLS certificate: a PBX that does
not check it would tell its accounts to whoever stands in between.
"""
