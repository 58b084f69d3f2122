"""A table in memory: what it holds, and what edits of it mean, whichever back end holds it."""
