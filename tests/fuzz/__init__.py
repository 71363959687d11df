"""Damaged inputs for every parser of something that a person, an image, a node or the network wrote."""
