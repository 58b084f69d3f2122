"""Changes of the rules as they happen: watched, noted in a journal, and undone where rules of a name are meant."""
