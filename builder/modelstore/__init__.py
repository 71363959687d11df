"""Language models: published in chunks, verified, collected."""
