"""What nodes tell, and how it travels."""
