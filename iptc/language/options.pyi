"""What `language.options` gives to the rest of the package: nothing to Python."""
