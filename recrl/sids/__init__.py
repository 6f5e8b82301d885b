"""Item text and interactions -> embedding -> codes -> tokens -> trie."""
