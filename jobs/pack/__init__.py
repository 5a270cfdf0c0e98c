"""The engine: many LoRA trials over one frozen base."""
