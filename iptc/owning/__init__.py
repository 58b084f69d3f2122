"""Rules that belong to a name among the rules of others: put in their place, and kept there."""
