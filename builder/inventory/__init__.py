"""cluster.yaml: who is who, checked and resolved."""
