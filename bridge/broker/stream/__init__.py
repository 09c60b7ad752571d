"""The stream protocol of RabbitMQ: its connection, and the publisher whose events the broker holds once."""
