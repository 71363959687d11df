"""What a node needs as part of a k3s cluster."""
