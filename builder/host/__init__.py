"""Tools of the machine: files, cache, mounts, downloads, clients of network protocols."""
