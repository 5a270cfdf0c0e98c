"""New training rows from those that are there: seeds, recipes, teachers, filters, what is kept."""
