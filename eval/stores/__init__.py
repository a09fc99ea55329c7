"""What is kept by content between runs: embeddings of images and texts, resized pixels."""
