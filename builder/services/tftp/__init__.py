"""TFTP servers, a module each, named as `cluster.tftp.server` says it: SERVER is all that is known of it."""
