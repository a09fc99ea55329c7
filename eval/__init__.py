"""How a benchmark is run: shards -> images -> embeddings -> scores."""
