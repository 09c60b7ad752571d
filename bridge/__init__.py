"""Publishes every account change of innovaphone PBXs to RabbitMQ, each change once.

Start reading at ``delivery``: it opens with the reasons why nothing is lost and nothing sent twice.
"""

__version__ = "0.1.0"
