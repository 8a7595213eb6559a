//! holdfast-target
