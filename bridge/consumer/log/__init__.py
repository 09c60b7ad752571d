"""The log of everything: reading it, by AMQP or by the stream protocol, and where one stands in it."""
