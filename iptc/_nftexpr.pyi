"""What `_nftexpr` gives to the rest of the package: to C alone."""
