"""RabbitMQ: connections, what is declared there, and publishing with confirms.

Imported by ``delivery`` and what is above it; imports ``events`` and ``security`` and below.
"""
