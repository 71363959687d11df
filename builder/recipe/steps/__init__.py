"""The kinds of step a recipe's layers are made of, one module each."""
