"""What `nft.parts` gives to the rest of the package: to C only."""
