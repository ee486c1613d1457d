"""The configs that come with the package; configs/ has a file for each."""
