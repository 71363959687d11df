"""Archives of Debian and Ubuntu packages, and dpkg's database."""
