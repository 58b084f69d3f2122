"""What `language.options` gives to the rest of the package: to C only."""
