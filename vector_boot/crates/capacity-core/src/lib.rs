//! Axes, allocation, tokens and buckets of the capacity kernel.
