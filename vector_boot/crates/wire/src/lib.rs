//! Frames, roles and layouts that the rooms share.
