"""llama.cpp as a runtime: a GGUF file in a process of its own."""
