"""Kubernetes: a sweep as a RayJob."""
