"""The applications, one package each, and the nouns that they share, one file each."""
