//! holdfast-mover
