"""Files as bytes and values; nothing here knows a model."""
