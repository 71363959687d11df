"""NFS servers, a module each, named as `cluster.nfs.server` says it: SERVER is all that is known of it."""
