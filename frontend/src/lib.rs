//! holdfast-console
