"""Fewer network evaluations for the same pictures and the same choice: today's sampler against others, side by side."""
