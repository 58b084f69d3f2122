"""What `nft.expressions` gives to the rest of the package: to C only."""
