"""What `_nftterms` gives to the rest of the package: to C alone."""
