//! holdfast-admission
