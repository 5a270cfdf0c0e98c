"""What is tried, compared, stopped and written down."""
