"""Rules that belong to an owner, among rules of other programs: puts them in place, and keeps them there."""
