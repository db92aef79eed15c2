"""The mark: the owner's key, the triggers derived from it, and how an encoder learns them."""
