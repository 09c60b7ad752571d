"""A row becomes an account, a difference, a CloudEvent; and the words and the document that tell of them."""
