"""The login and backup nodes' servers: rendered, applied, checked."""
