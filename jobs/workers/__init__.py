"""The binding to Ray: the only room of jobs that imports it."""
