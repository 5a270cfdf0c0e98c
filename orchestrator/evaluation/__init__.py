"""The end of a sweep: scores, champion, registration."""
