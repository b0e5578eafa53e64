"""The classifier and what it is made of: encoders, preparers, teacher, caches in use. No loss is here."""
