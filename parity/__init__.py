"""Golden vectors: torch oracles that write them, and what both sides need to agree on them."""
