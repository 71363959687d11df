"""DHCP servers, a module each, named as `cluster.dhcp.server` says it: SERVER is all that is known of it."""
