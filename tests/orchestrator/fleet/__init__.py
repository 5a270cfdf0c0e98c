"""Tests of orchestrator/fleet."""
